//! The relay's own firewall, as on a server where only port 443 may be open.

use std::fs;

use serde_json::Value;

use crate::lab::Lab;
use crate::process::run;

/// Packets for the relay that its firewall accepted, by the initiator of their flow, and those it
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Initiated outside, to port 443.
    pub(crate) to_443: u64,
    /// Answers to flows that the relay initiated.
    pub(crate) answers: u64,
    /// Initiated outside, to any other port; must never happen.
    pub(crate) elsewhere: u64,
    /// Refused.
    pub(crate) refused: u64,
}

/// Drops everything for the relay except port 443 and answers. A second chain counts accepted
/// packets by the kernel's flow state, so the count does not depend on the rules under test.
pub(crate) fn close(lab: &Lab) {
    let rules = "table ip host {
       counter to_443 { }
       counter answers { }
       counter elsewhere { }
       counter refused { }
       chain input {
         type filter hook input priority 0; policy drop;
         iifname lo accept
         ct state established,related accept
         tcp dport 443 accept
         udp dport 443 accept
         counter name refused
       }
       chain admitted {
         type filter hook input priority 300; policy accept;
         iifname lo accept
         ct direction reply counter name answers accept
         meta l4proto { tcp, udp } th dport 443 counter name to_443 accept
         counter name elsewhere
       }
     }";
    let file = lab.folder().join("host.nft");
    fs::write(&file, rules).expect("the lab's folder is writable");
    run(lab.relay().command("nft").arg("--file").arg(file));
}

/// The counts so far.
pub(crate) fn admitted(lab: &Lab) -> Admitted {
    let text = run(lab.relay().command("nft").args(["--json", "list", "counters"]));
    let json: Value = serde_json::from_str(&text).expect("nft prints JSON when asked to");
    let count = |name: &str| {
        let entries = json["nftables"].as_array().into_iter().flatten();
        let mut counters = entries
            .map(|entry| &entry["counter"])
            .filter(|counter| counter["name"] == name);
        counters
            .next()
            .and_then(|counter| counter["packets"].as_u64())
            .expect("the rule set has this counter")
    };
    Admitted {
        to_443: count("to_443"),
        answers: count("answers"),
        elsewhere: count("elsewhere"),
        refused: count("refused"),
    }
}

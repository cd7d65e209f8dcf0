//! The relay's own firewall: what a server has where nothing but port 443 may be opened.

use std::fs;

use serde_json::Value;

use crate::lab::Lab;
use crate::process::run;

/// Packets for the relay that its firewall let in, by who began the flow they belong to, and those it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Begun outside, to port 443.
    pub(crate) to_443: u64,
    /// Answers to what the relay began.
    pub(crate) answers: u64,
    /// Begun outside, to any other port: what must never be.
    pub(crate) elsewhere: u64,
    /// Refused.
    pub(crate) refused: u64,
}

/// Drops everything for the relay but port 443 and answers. A second chain counts what has come in by what the kernel
/// knows of its flow, so that the count does not rest on the rules it is to prove.
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

/// What has come in so far.
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

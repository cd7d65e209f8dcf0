//! The relay behind a NAT that maps its address and its ports: clients and peers get the external
//! ones.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::calls::watch;
use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, RELAY, RELAY_HOST, SFU};
use crate::one_at_a_time;
use crate::relay::Relay;
use crate::server::RELAY_PORTS;

/// The relay's external address. Inside it has another, and knows this one only from its
/// configuration.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);
/// The external ports, none of which is also an internal one.
const PUBLIC_PORTS: RangeInclusive<u16> = 20_000..=20_847;

#[test]
fn a_call_is_relayed_through_a_mapping_of_address_and_ports() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, &["chromium", "certutil", "janus"]);
    lab.add_rules("mapping", &mapping());
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let (address, ports) = (
        PUBLIC.to_string(),
        format!("{}-{}", PUBLIC_PORTS.start(), PUBLIC_PORTS.end()),
    );
    let environment = [
        ("RELAY__EXTERNAL__IPV4", address.as_str()),
        ("RELAY__EXTERNAL__PORTS", &ports),
    ];
    let relay = Relay::start_with(&lab, &certs.settings(), "", &environment);
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);

    let mut configuration = relay.mint_configuration();
    configuration["iceServers"][0]["urls"] = json!([format!("turn:{PUBLIC}:443?transport=udp")]);
    let offer = browser.call_page("offer", &[&configuration]);
    let answer = janus.answer(offer.as_str().expect("an offer is text"));
    browser.call_page("accept", &[&Value::from(answer)]);
    let sample = watch(&mut [&mut browser]).remove(0);

    let local = &sample["local"];
    assert_eq!(local["candidateType"], "relay", "{sample:#}");
    assert_eq!(local["address"], address, "{sample:#}");
    let port = local["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    assert!(port.is_some_and(|port| PUBLIC_PORTS.contains(&port)), "{sample:#}");
    assert_eq!(sample["remote"]["address"], SFU.to_string(), "{sample:#}");
    // The SFU sends to the announced address, and does not know the internal one.
    assert!(lab.counter("media_outside") > 100);
    assert_eq!(lab.counter("media_inside"), 0);
    relay.stop();
}

/// 443 outside is 3478 inside, and each relay port is another; `snat` and `dnat` are the NAT's two
/// directions.
fn mapping() -> String {
    let (mut inward, mut outward) = (String::new(), String::new());
    for (inside, outside) in RELAY_PORTS.zip(PUBLIC_PORTS) {
        inward.push_str(&format!(
            "ip daddr {PUBLIC} udp dport {outside} dnat to {RELAY}:{inside}\n"
        ));
        outward.push_str(&format!(
            "ip saddr {RELAY} udp sport {inside} snat to {PUBLIC}:{outside}\n"
        ));
    }
    format!(
        "table ip lab {{
           counter media_outside {{ }}
           counter media_inside {{ }}
           chain arriving {{
             type filter hook prerouting priority -150; policy accept;
             ip saddr {SFU} ip daddr {PUBLIC} udp dport {}-{} counter name media_outside
             ip saddr {SFU} ip daddr {RELAY} counter name media_inside
           }}
           chain inward {{
             type nat hook prerouting priority -100; policy accept;
             ip daddr {PUBLIC} udp dport 443 dnat to {RELAY}:3478
             {inward}
           }}
           chain outward {{
             type nat hook postrouting priority 100; policy accept;
             {outward}
           }}
         }}",
        PUBLIC_PORTS.start(),
        PUBLIC_PORTS.end()
    )
}

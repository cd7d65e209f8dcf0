//! Rules of docs/conformance.md from a client's point of view, in a form that needs only the
//! server's addresses and two users. Each describes in a few words what it observed, so that other
//! servers can be compared (`other_servers.rs`).

use std::net::SocketAddr;

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Method};

use crate::client::{PATIENCE, SILENCE};
use crate::rule_actions::{DENIED, Story, Target, attribute, has, relayed, told, udp};

/// One rule.
pub(crate) struct Rule {
    /// Its id in docs/conformance.md.
    pub(crate) id: &'static str,
    /// The action, in a few words.
    pub(crate) asked: &'static str,
    /// The required observation.
    pub(crate) expected: &'static str,
    look: fn(&mut Story<'_>) -> String,
}

impl Rule {
    /// The observation of a new client of `target`.
    pub(crate) fn look(&self, target: &Target, transport: Transport) -> String {
        // Only where nothing should arrive is a short wait sufficient.
        let patience = if self.expected == "silent" { SILENCE } else { PATIENCE };
        (self.look)(&mut Story::begin(target, transport, patience))
    }
}

const CHALLENGE: [AttributeType; 4] = [
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
];

macro_rules! rules {
    ($($id:literal, $asked:literal, $expected:literal, $look:expr;)+) => {
        /// Every rule here.
        pub(crate) const RULES: &[Rule] = &[$(Rule { id: $id, asked: $asked, expected: $expected, look: $look },)+];
    };
}

rules! {
    "STUN-BIND-01", "a Binding request", "success", |s| s.plain(Method::Binding, &|_| {});
    "STUN-BIND-04", "attributes of its response", "XOR-MAPPED-ADDRESS", |s| {
        let packet = s.compose(Class::Request, Method::Binding, &|_| {});
        let answer = s.exchange(&packet).expect("an answer");
        has(&answer, &[
            AttributeType::XOR_MAPPED_ADDRESS,
            AttributeType::MAPPED_ADDRESS,
            AttributeType::RESPONSE_ORIGIN,
            AttributeType::OTHER_ADDRESS,
        ])
    };
    "STUN-BIND-03", "a Binding indication", "silent", |s| {
        let packet = s.compose(Class::Indication, Method::Binding, &|_| {});
        s.ignored(&packet)
    };
    "STUN-BIND-07", "a Binding request with a wrong FINGERPRINT", "silent", |s| {
        let mut packet = s.compose(Class::Request, Method::Binding, &|w| { w.fingerprint(); });
        *packet.last_mut().expect("bytes") ^= 1;
        s.ignored(&packet)
    };
    "STUN-MSG-06", "a request of method 0x002", "silent", |s| {
        let mut packet = s.compose(Class::Request, Method::Binding, &|_| {});
        packet[1] = 2;
        s.ignored(&packet)
    };
    "STUN-MSG-07", "an Allocate indication", "silent", |s| {
        let packet = s.compose(Class::Indication, Method::Allocate, &udp);
        s.ignored(&packet)
    };
    "STUN-MSG-08", "a Binding response", "silent", |s| {
        let packet = s.compose(Class::Success, Method::Binding, &|_| {});
        s.ignored(&packet)
    };
    "STUN-MSG-14", "a Binding request with attribute 0x7ffe", "420", |s| {
        s.plain(Method::Binding, &|w| { w.attribute(AttributeType(0x7FFE), &[]); })
    };
    "STUN-MSG-16", "a Binding request with attribute 0xc057", "success", |s| {
        s.plain(Method::Binding, &|w| { w.attribute(AttributeType(0xC057), &[]); })
    };
    "STUN-MSG-19", "a stranger's Allocate with attribute 0x7ffe", "401", |s| {
        s.plain(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType(0x7FFE), &[]); })
    };
    "STUN-AUTH-01", "what a 401 has", "REALM, NONCE", |s| {
        let packet = s.compose(Class::Request, Method::Allocate, &udp);
        has(&s.exchange(&packet).expect("an answer"), &CHALLENGE)
    };
    "STUN-AUTH-16", "whether a 401 offers SHA-256", "PASSWORD-ALGORITHMS", |s| {
        let packet = s.compose(Class::Request, Method::Allocate, &udp);
        has(&s.exchange(&packet).expect("an answer"), &[AttributeType::PASSWORD_ALGORITHMS])
    };
    "STUN-AUTH-02", "a signed Allocate without USERNAME", "400", |s| without(s, AttributeType::USERNAME);
    "STUN-AUTH-02", "a signed Allocate without REALM", "400", |s| without(s, AttributeType::REALM);
    "STUN-AUTH-02", "a signed Allocate without NONCE", "400", |s| without(s, AttributeType::NONCE);
    "STUN-AUTH-03", "an Allocate with a wrong password", "401", |s| {
        let name = s.target.users[0].username.clone();
        login(s, &name, "wrong")
    };
    "STUN-AUTH-03", "an Allocate of an unknown user", "401", |s| login(s, "nobody", "wrong");
    "STUN-AUTH-04", "an Allocate with an unknown nonce", "438", |s| {
        s.challenge();
        s.nonce = "nothing-of-yours".into();
        s.say(Method::Allocate, &udp)
    };
    "STUN-AUTH-05", "an Allocate with the nonce of another port", "success", |s| {
        let mut other = Story::begin(s.target, s.transport, s.patience);
        other.challenge();
        (s.realm, s.nonce) = (other.realm, other.nonce);
        s.say(Method::Allocate, &udp)
    };
    "STUN-AUTH-08", "an Allocate signed for another realm", "401", |s| {
        s.challenge();
        s.realm = "evil.example".into();
        s.say(Method::Allocate, &udp)
    };
    "STUN-AUTH-11", "LIFETIME 3600 behind the signature", "600", |s| {
        let packet = s.signed(0, Method::Allocate, &udp, &|w| { w.u32(AttributeType::LIFETIME, 3600); });
        let answer = s.exchange(&packet).expect("an answer");
        attribute(&answer, AttributeType::LIFETIME)
            .map_or_else(|| told(&answer), |v| u32::from_be_bytes(v.try_into().expect("four bytes")).to_string())
    };
    "STUN-AUTH-19", "whether an error after the login is signed", "MESSAGE-INTEGRITY", |s| {
        has(&s.ask(Method::Refresh, &|_| {}).expect("an answer"), &CHALLENGE)
    };
    "TURN-GEN-01", "Refresh without an allocation", "437", |s| s.say(Method::Refresh, &|_| {});
    "TURN-GEN-01", "CreatePermission without an allocation", "437", |s| { let peer = s.nobody(); s.permit(peer) };
    "TURN-GEN-01", "ChannelBind without an allocation", "437", |s| { let peer = s.nobody(); s.bind(0x4000, peer) };
    "TURN-GEN-03", "another user's Refresh of an allocation", "441", |s| {
        s.allocate();
        let packet = s.signed(1, Method::Refresh, &|_| {}, &|_| {});
        s.exchange(&packet).map_or_else(|| "silent".into(), |answer| told(&answer))
    };
    "TURN-ALLOC-02", "a second Allocate", "437", |s| { s.allocate(); s.say(Method::Allocate, &udp) };
    "TURN-ALLOC-07", "Allocate without REQUESTED-TRANSPORT", "400", |s| s.say(Method::Allocate, &|_| {});
    "TURN-ALLOC-08", "Allocate for protocol 255", "442", |s| {
        s.say(Method::Allocate, &|w| { w.attribute(AttributeType::REQUESTED_TRANSPORT, &[255, 0, 0, 0]); })
    };
    "TURN-ALLOC-10", "RESERVATION-TOKEN beside EVEN-PORT", "400", |s| {
        s.say(Method::Allocate, &|w| {
            udp(w);
            w.attribute(AttributeType::EVEN_PORT, &[0]);
            w.attribute(AttributeType::RESERVATION_TOKEN, &[7; 8]);
        })
    };
    "TURN-ALLOC-11", "an unknown RESERVATION-TOKEN", "508", |s| {
        s.say(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType::RESERVATION_TOKEN, &[7; 8]); })
    };
    "TURN-ALLOC-13", "both address family attributes", "400", |s| {
        s.say(Method::Allocate, &|w| {
            udp(w);
            w.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]);
            w.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        })
    };
    "TURN-ALLOC-14", "an unknown address family", "440", |s| {
        s.say(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0]); })
    };
    "TURN-ALLOC-16", "EVEN-PORT", "even", |s| {
        let answer = s.ask(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType::EVEN_PORT, &[0]); });
        let answer = answer.expect("an answer");
        match told(&answer).as_str() {
            "success" if relayed(&answer).port().is_multiple_of(2) => "even".into(),
            other => other.into(),
        }
    };
    "TURN-ALLOC-17", "EVEN-PORT with the next port reserved", "RESERVATION-TOKEN", |s| {
        let answer = s.ask(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType::EVEN_PORT, &[0x80]); });
        has(&answer.expect("an answer"), &[AttributeType::RESERVATION_TOKEN])
    };
    "TURN-ALLOC-20", "EVEN-PORT with R beside ADDITIONAL-ADDRESS-FAMILY", "400", |s| {
        s.say(Method::Allocate, &|w| {
            udp(w);
            w.attribute(AttributeType::EVEN_PORT, &[0x80]);
            w.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        })
    };
    "TURN-ALLOC-22", "ADDITIONAL-ADDRESS-FAMILY for IPv4", "400", |s| {
        s.say(Method::Allocate, &|w| { udp(w); w.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0]); })
    };
    "TURN-ALLOC-27", "the lifetime without LIFETIME", "600", |s| s.lifetime(Method::Allocate, None);
    "TURN-ALLOC-28", "the lifetime for LIFETIME 60", "600", |s| s.lifetime(Method::Allocate, Some(60));
    "TURN-ALLOC-29", "the lifetime for LIFETIME 1800", "1800", |s| s.lifetime(Method::Allocate, Some(1800));
    "TURN-ALLOC-29", "the lifetime for LIFETIME 86400", "3600", |s| s.lifetime(Method::Allocate, Some(86_400));
    "TURN-REFR-01", "LIFETIME in the response to Refresh 0", "0", |s| { s.allocate(); s.lifetime(Method::Refresh, Some(0)) };
    "TURN-REFR-02", "Refresh 0 again", "437", |s| {
        s.allocate();
        s.lifetime(Method::Refresh, Some(0));
        s.say(Method::Refresh, &|w| { w.u32(AttributeType::LIFETIME, 0); })
    };
    "TURN-REFR-04", "Refresh for the family it has not", "443", |s| {
        s.allocate();
        s.say(Method::Refresh, &|w| { w.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]); })
    };
    "COMPAT-05", "Allocate after Refresh 0", "success", |s| {
        s.allocate();
        s.lifetime(Method::Refresh, Some(0));
        s.say(Method::Allocate, &udp)
    };
    "TURN-PERM-01", "CreatePermission without a peer", "400", |s| {
        s.allocate();
        s.say(Method::CreatePermission, &|_| {})
    };
    "TURN-PERM-03", "CreatePermission for an IPv6 peer", "443", |s| {
        s.allocate();
        s.permit("[2001:db8::9]:9".parse().expect("an address"))
    };
    "TURN-PERM-04", "CreatePermission for a denied peer", "403", |s| {
        s.allocate();
        s.permit(DENIED.parse().expect("an address"))
    };
    "TURN-PERM-04", "data to the good peer of a request with a denied one", "silent", |s| {
        s.allocate();
        let peer = s.peer();
        s.say(Method::CreatePermission, &|w| {
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.address);
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, DENIED.parse().expect("an address"));
        });
        s.send(peer.address, b"hello", &|_| {});
        s.heard()
    };
    "TURN-CHAN-01", "ChannelBind without a peer", "400", |s| {
        s.allocate();
        s.say(Method::ChannelBind, &|w| { w.u32(AttributeType::CHANNEL_NUMBER, 0x4000_0000); })
    };
    "TURN-CHAN-02", "ChannelBind of 0x3fff", "400", |s| { s.allocate(); let peer = s.nobody(); s.bind(0x3FFF, peer) };
    "TURN-CHAN-02", "ChannelBind of 0x5000", "400", |s| { s.allocate(); let peer = s.nobody(); s.bind(0x5000, peer) };
    "TURN-CHAN-04", "a number bound to a second peer", "400", |s| {
        s.allocate();
        let peer = s.nobody();
        s.bind(0x4000, peer);
        s.bind(0x4000, SocketAddr::new(peer.ip(), 10))
    };
    "TURN-CHAN-04", "a peer bound to a second number", "400", |s| {
        s.allocate();
        let peer = s.nobody();
        s.bind(0x4000, peer);
        s.bind(0x4001, peer)
    };
    "TURN-CHAN-05", "the same binding again", "success", |s| {
        s.allocate();
        let peer = s.nobody();
        s.bind(0x4000, peer);
        s.bind(0x4000, peer)
    };
    "TURN-CHAN-06", "ChannelBind to a denied peer", "403", |s| {
        s.allocate();
        s.bind(0x4000, DENIED.parse().expect("an address"))
    };
    "TURN-CHAN-11", "ChannelData on a number that is not bound", "silent", |s| {
        s.allocate();
        s.client.send_channel(0x4000, b"hello");
        s.heard()
    };
    "TURN-DATA-08", "an echo over a channel", "channel 0x4000: hello", |s| {
        s.allocate();
        let peer = s.peer();
        s.bind(0x4000, peer.address);
        s.client.send_channel(0x4000, b"hello");
        s.heard()
    };
    "TURN-DATA-07", "an echo without channel", "indication: hello", |s| {
        s.allocate();
        let peer = s.peer();
        s.permit(peer.address);
        s.send(peer.address, b"hello", &|_| {});
        s.heard()
    };
    "TURN-DATA-03", "Send without permission", "silent", |s| {
        s.allocate();
        let peer = s.peer();
        s.send(peer.address, b"hello", &|_| {});
        s.heard()
    };
    "TURN-PERM-10", "data of a peer without permission", "silent", |s| {
        let to = s.allocate();
        let peer = std::net::UdpSocket::bind(format!("{}:0", s.target.peer)).expect("a free port");
        peer.send_to(b"hello", to).expect("sent");
        s.heard()
    };
    "STUN-MSG-18", "Send with attribute 0x7ffe", "silent", |s| {
        s.allocate();
        let peer = s.peer();
        s.permit(peer.address);
        s.send(peer.address, b"hello", &|w| { w.attribute(AttributeType(0x7FFE), &[]); });
        s.heard()
    };
    "TURN-DATA-02", "an empty datagram, there and back", "indication: ", |s| {
        s.allocate();
        let peer = s.peer();
        s.permit(peer.address);
        s.send(peer.address, b"", &|_| {});
        s.heard()
    };
    "TURN-DATA-10", "Send with DONT-FRAGMENT", "indication: hello", |s| {
        s.allocate();
        let peer = s.peer();
        s.permit(peer.address);
        s.send(peer.address, b"hello", &|w| { w.attribute(AttributeType::DONT_FRAGMENT, &[]); });
        s.heard()
    };
}

/// The result of an Allocate that lacks one attribute of its login.
fn without(s: &mut Story<'_>, missing: AttributeType) -> String {
    s.challenge();
    let texts = [
        (AttributeType::USERNAME, s.target.users[0].username.clone()),
        (AttributeType::REALM, s.realm.clone()),
        (AttributeType::NONCE, s.nonce.clone()),
    ];
    let key = s.key(0);
    s.plain(Method::Allocate, &|w| {
        udp(w);
        for (kind, text) in texts.iter().filter(|(kind, _)| *kind != missing) {
            w.attribute(*kind, text.as_bytes());
        }
        w.integrity(&key, Integrity::Sha1);
    })
}

/// The result of an Allocate with this login.
fn login(s: &mut Story<'_>, username: &str, password: &str) -> String {
    s.challenge();
    let key = Key::long_term(
        username.as_bytes(),
        &s.realm,
        password.as_bytes(),
        PasswordAlgorithm::Md5,
    );
    let (realm, nonce) = (s.realm.clone(), s.nonce.clone());
    s.plain(Method::Allocate, &|w| {
        udp(w);
        w.attribute(AttributeType::USERNAME, username.as_bytes());
        w.attribute(AttributeType::REALM, realm.as_bytes());
        w.attribute(AttributeType::NONCE, nonce.as_bytes());
        w.integrity(&key, Integrity::Sha1);
    })
}

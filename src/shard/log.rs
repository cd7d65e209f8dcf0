//! One line when an allocation begins, one whenever it moves, and one when it ends (target
//! `relay::allocation`).

use core::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::turn::output::Event;
use crate::turn::types::RelayedAddr;

/// How much of a client's address a log line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogClient {
    /// Address and port.
    #[default]
    Full,
    /// IPv4 /24, IPv6 /48.
    Truncated,
    /// None of it.
    Off,
}

impl LogClient {
    /// `addr`, as a line shows it.
    pub const fn show(self, addr: SocketAddr) -> Shown {
        Shown { addr, how: self }
    }
}

/// An address, as a line shows it.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    addr: SocketAddr,
    how: LogClient,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.how, self.addr.ip()) {
            (LogClient::Full, _) => self.addr.fmt(f),
            (LogClient::Truncated, IpAddr::V4(ip)) => {
                write!(f, "{}/24", Ipv4Addr::from_bits(ip.to_bits() & !0xff))
            }
            (LogClient::Truncated, IpAddr::V6(ip)) => {
                write!(f, "{}/48", Ipv6Addr::from_bits(ip.to_bits() & (!0 << 80)))
            }
            (LogClient::Off, _) => f.write_str("-"),
        }
    }
}

/// Longest username shown, in characters.
const USERNAME: usize = 128;

/// A username, cut to [`USERNAME`] characters. The log escapes its content.
pub(super) struct Username<'a>(pub(super) &'a str);

impl fmt::Display for Username<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(USERNAME) {
            f.write_char(c)?;
        }
        if chars.next().is_some() {
            f.write_str("…")
        } else {
            Ok(())
        }
    }
}

/// `192.0.2.1:50000`, or both families' addresses with a comma.
struct Relayed<'a>(&'a [Option<RelayedAddr>; 2]);

impl fmt::Display for Relayed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, addr) in self.0.iter().flatten().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            addr.0.fmt(f)?;
        }
        Ok(())
    }
}

/// Writes the line for `event` about an allocation, which happened in shard number `shard`.
pub fn log(event: &Event, shard: usize, client: LogClient) {
    match event {
        Event::AllocationBegan {
            id,
            five_tuple,
            username,
            relayed,
        } => tracing::info!(
            target: "relay::allocation",
            %id,
            client = %client.show(five_tuple.client),
            transport = five_tuple.transport.as_str(),
            relayed = %Relayed(relayed),
            user = %Username(username),
            "allocation began"
        ),
        Event::AllocationMoved {
            id,
            from,
            was,
            client: now,
            username,
            relayed,
        } => tracing::info!(
            target: "relay::allocation",
            %id,
            worker = shard,
            was_worker = from,
            client = now.map(|now| tracing::field::display(client.show(now.client))),
            transport = now.map(|now| now.transport.as_str()),
            was_client = %client.show(was.client),
            was_transport = was.transport.as_str(),
            relayed = %Relayed(relayed),
            user = %Username(username),
            "allocation moved"
        ),
        Event::AllocationEnded {
            id,
            five_tuple,
            username,
            relayed,
            traffic,
            age,
            why,
        } => tracing::info!(
            target: "relay::allocation",
            %id,
            client = %client.show(five_tuple.client),
            transport = five_tuple.transport.as_str(),
            relayed = %Relayed(relayed),
            user = %Username(username),
            up_bytes = traffic.up_bytes,
            up_packets = traffic.up_packets,
            down_bytes = traffic.down_bytes,
            down_packets = traffic.down_packets,
            seconds = age.as_secs_f64(),
            why = why.as_str(),
            "allocation ended"
        ),
        // They have their own budget (`refusals`).
        Event::Refused(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::sync::Arc;

    use super::super::tests::lines;
    use super::*;
    use crate::base::address::{FiveTuple, Transport};
    use crate::turn::SessionId;
    use crate::turn::output::{EndReason, Traffic};

    #[test]
    fn an_address_is_shown_whole_cut_or_not_at_all() {
        let v4 = "192.0.2.77:4000".parse().unwrap();
        let v6 = "[2001:db8:aaaa:bbbb::1]:4000".parse().unwrap();
        for (how, v4_text, v6_text) in [
            (LogClient::Full, "192.0.2.77:4000", "[2001:db8:aaaa:bbbb::1]:4000"),
            (LogClient::Truncated, "192.0.2.0/24", "2001:db8:aaaa::/48"),
            (LogClient::Off, "-", "-"),
        ] {
            assert_eq!(how.show(v4).to_string(), v4_text);
            assert_eq!(how.show(v6).to_string(), v6_text);
        }
    }

    #[test]
    fn a_username_is_cut_where_it_is_too_long() {
        assert_eq!(Username("1700000000:bob").to_string(), "1700000000:bob");
        let long = "x".repeat(USERNAME + 1);
        assert_eq!(Username(&long).to_string(), format!("{}…", "x".repeat(USERNAME)));
        assert_eq!(Username(&long[1..]).to_string(), "x".repeat(USERNAME));
    }

    #[test]
    fn both_relayed_addresses_are_shown() {
        let v4 = Some(RelayedAddr("192.0.2.1:50000".parse().unwrap()));
        let v6 = Some(RelayedAddr("[2001:db8::1]:50002".parse().unwrap()));
        assert_eq!(Relayed(&[v4, v6]).to_string(), "192.0.2.1:50000,[2001:db8::1]:50002");
        assert_eq!(Relayed(&[None, v6]).to_string(), "[2001:db8::1]:50002");
    }
    #[test]
    fn an_allocation_has_a_line_when_it_begins_when_it_moves_and_when_it_ends() {
        let id = SessionId::from_random([0xa7; 12]);
        let shown = "a7".repeat(12);
        let five_tuple = |client: &str, transport| FiveTuple {
            client: client.parse().unwrap(),
            server: "198.51.100.1:443".parse().unwrap(),
            transport,
        };
        let username: Arc<str> = Arc::from("alice");
        let relayed = [Some(RelayedAddr("198.51.100.1:50000".parse().unwrap())), None];
        let was = five_tuple("192.0.2.7:4000", Transport::Udp);
        let said = |event, show| lines(|| log(&event, 3, show));
        let began = Event::AllocationBegan {
            id,
            five_tuple: was,
            username: Arc::clone(&username),
            relayed,
        };
        let line = format!(
            "INFO relay::allocation: allocation began id={shown} client=192.0.2.7:4000 transport=\"udp\" \
                    relayed=198.51.100.1:50000 user=alice"
        );
        assert_eq!(said(began, LogClient::Full), [line]);
        let moved = |client| Event::AllocationMoved {
            id,
            from: 1,
            was,
            client,
            username: Arc::clone(&username),
            relayed,
        };
        let line = format!(
            "INFO relay::allocation: allocation moved id={shown} worker=3 was_worker=1 client=203.0.113.0/24 \
                    transport=\"tcp\" was_client=192.0.2.0/24 was_transport=\"udp\" relayed=198.51.100.1:50000 user=alice"
        );
        let to = five_tuple("203.0.113.9:5000", Transport::Tcp);
        assert_eq!(said(moved(Some(to)), LogClient::Truncated), [line]);
        let line = format!(
            "INFO relay::allocation: allocation moved id={shown} worker=3 was_worker=1 was_client=- was_transport=\"udp\" \
                    relayed=198.51.100.1:50000 user=alice"
        );
        assert_eq!(said(moved(None), LogClient::Off), [line]);
        let ended = Event::AllocationEnded {
            id,
            five_tuple: was,
            username,
            relayed,
            traffic: Traffic {
                up_packets: 1,
                up_bytes: 20,
                down_packets: 3,
                down_bytes: 40,
            },
            age: Duration::from_millis(1500),
            why: EndReason::Expired,
        };
        let line = format!(
            "INFO relay::allocation: allocation ended id={shown} client=192.0.2.7:4000 transport=\"udp\" \
                    relayed=198.51.100.1:50000 user=alice up_bytes=20 up_packets=1 down_bytes=40 down_packets=3 \
                    seconds=1.5 why=\"expired\""
        );
        assert_eq!(said(ended, LogClient::Full), [line]);
    }
}

//! This machine's addresses according to the operating system and to a STUN server: its interfaces,
//! the source address of the default route, and the address that a server sees (a Binding request
//! over UDP, RFC 8489 §12).

use core::time::Duration;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::base::address::Family;
use crate::net::clock::Clock;
use crate::turn::OwnSockets;
use crate::wire::attribute::AttributeType;
use crate::wire::message::{Class, Message, Method, TransactionId};
use crate::wire::writer::MessageWriter;

/// Addresses beyond the default route; nothing is sent to them. These are root name servers.
const FAR_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)), 53);
const FAR_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)), 53);

/// First retransmission interval of a Binding request; each next one is twice as long (RFC 8489
/// §6.2.1).
const RETRANSMIT: Duration = Duration::from_millis(500);

/// One address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// The addresses of this machine's interfaces.
///
/// # Errors
/// When the system does not answer.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let all = if_addrs::get_if_addrs()?.into_iter();
    let one = |interface: if_addrs::Interface| Interface {
        ip: interface.ip(),
        name: interface.name,
    };
    Ok(all.map(one).collect())
}

/// The source address of the default route: the address a UDP socket has after connect. Sends
/// nothing.
pub fn route_source(family: Family) -> Option<IpAddr> {
    let (any, far) = match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), FAR_V4),
        Family::V6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), FAR_V6),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(far).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// Asks the STUN server at `server` for the source address it sees on packets from `bind`. The
/// socket is registered in `own`. Waits `timeout` at most.
///
/// # Errors
/// When the server cannot be reached, does not answer in time, or answers without an address.
pub fn ask_stun(server: SocketAddr, bind: IpAddr, timeout: Duration, own: Option<&OwnSockets>) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((bind, 0))?;
    let noted = own.zip(socket.local_addr().ok()).map(|(own, local)| own.note(local));
    // Declared in this order, so that the socket is closed first.
    let (_noted, socket) = (noted, socket);
    // Connected, so that the kernel drops other senders' datagrams.
    socket.connect(server)?;
    let mut id = TransactionId([0; 12]);
    getrandom::fill(&mut id.0).map_err(io::Error::other)?;
    let mut request = [0; 64];
    let mut writer = MessageWriter::new(&mut request, Class::Request, Method::Binding, id);
    writer.fingerprint();
    let len = writer
        .finish()
        .map_err(|error| io::Error::other(format!("{error:?}")))?;

    let clock = Clock::default();
    let deadline = clock.mono() + timeout;
    let mut wait = RETRANSMIT;
    let mut buffer = [0; 2048];
    loop {
        socket.send(&request[..len])?;
        let resend = (clock.mono() + wait).min(deadline);
        wait *= 2;
        // Zero once the time is over.
        while let Some(left) = Some(resend - clock.mono()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    if let Some(answer) = mapped_address(&buffer[..len], id) {
                        return answer;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if clock.mono() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {timeout:?}"),
            ));
        }
    }
}

/// The address in a response; `None` if it does not answer our request.
fn mapped_address(bytes: &[u8], id: TransactionId) -> Option<io::Result<IpAddr>> {
    let message = Message::parse(bytes).ok()?;
    if message.transaction_id() != id || message.method() != Some(Method::Binding) {
        return None;
    }
    let refused = |why: &str| Some(Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned())));
    match message.class() {
        Class::Success => match message.xor_address(AttributeType::XOR_MAPPED_ADDRESS) {
            Ok(Some(address)) => Some(Ok(address.ip().to_canonical())),
            _ => refused("its response has no XOR-MAPPED-ADDRESS"),
        },
        Class::Error => refused("it answered with an error"),
        Class::Request | Class::Indication => None,
    }
}

/// Whether an address is unreachable from the public Internet: private, shared (RFC 6598),
/// link-local, unique local, loopback.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each request with the result of `answer`, and drops the first `skip`
    /// requests. Returns its address.
    fn server(skip: usize, answer: impl Fn(&Message<'_>, SocketAddr) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let mut seen = 0;
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                seen += 1;
                let request = Message::parse(&buffer[..len]).expect("a STUN message");
                if seen > skip {
                    let _ = socket.send_to(b"not STUN at all", from);
                    let _ = socket.send_to(&answer(&request, from), from);
                }
            }
        });
        address
    }

    fn success(request: &Message<'_>, mapped: SocketAddr, id: TransactionId) -> Vec<u8> {
        let mut out = vec![0; 64];
        assert_eq!(request.method(), Some(Method::Binding));
        let mut writer = MessageWriter::new(&mut out, Class::Success, Method::Binding, id);
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped);
        let len = writer.finish().expect("fits");
        out.truncate(len);
        out
    }

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_stun_server_tells_the_address_it_sees() {
        let server = server(0, |request, _| {
            success(
                request,
                "203.0.113.9:4000".parse().expect("an address"),
                request.transaction_id(),
            )
        });
        let ip = ask_stun(server, LOCALHOST, Duration::from_secs(3), None).expect("an answer");
        assert_eq!(ip, IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)));
    }

    #[test]
    fn the_socket_of_a_question_is_nobodys_peer_while_it_waits() {
        let own = OwnSockets::default();
        let noted = own.clone();
        let (ours, asked_from) = std::sync::mpsc::channel();
        let server = server(0, move |request, from| {
            ours.send((from, noted.has(from))).expect("the test waits");
            success(request, from, request.transaction_id())
        });
        ask_stun(server, LOCALHOST, Duration::from_secs(3), Some(&own)).expect("an answer");
        let (from, was_noted) = asked_from.recv().expect("the server was asked");
        assert!(was_noted && !own.has(from));
    }

    #[test]
    fn a_lost_request_is_sent_again() {
        let server = server(1, |request, from| success(request, from, request.transaction_id()));
        assert_eq!(
            ask_stun(server, LOCALHOST, Duration::from_secs(3), None).ok(),
            Some(LOCALHOST)
        );
    }

    #[test]
    fn a_request_is_sent_again_later_and_later_until_the_time_is_over() {
        let (ours, asked) = std::sync::mpsc::channel();
        let server = server(0, move |_, _| {
            let _ = ours.send(());
            Vec::new()
        });
        let (clock, begin) = (Clock::default(), Clock::default().mono());
        let timeout = Duration::from_millis(1200);
        let error = ask_stun(server, LOCALHOST, timeout, None).expect_err("no answer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(clock.mono() - begin >= timeout);
        // At once and after half a second; a slow machine may hold one back.
        let requests = asked.try_iter().count();
        assert!((1..=2).contains(&requests), "{requests}");
    }

    #[test]
    fn where_nobody_listens_is_told_at_once() {
        // The port is taken, and the socket receives from one other address only.
        let deaf = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let server = deaf.local_addr().expect("bound");
        deaf.connect(("127.0.0.1", server.port())).expect("itself");
        let error = ask_stun(server, LOCALHOST, Duration::from_secs(60), None).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn this_machine_has_the_address_that_every_machine_has() {
        let all = interfaces().expect("the system tells");
        let loopback = all.iter().find(|it| it.ip == LOCALHOST).expect("loopback");
        assert_eq!(loopback.name, "lo");
    }

    #[test]
    fn an_answer_to_another_request_is_not_taken() {
        let server = server(0, |request, from| success(request, from, TransactionId([7; 12])));
        let error = ask_stun(server, LOCALHOST, Duration::from_millis(300), None).expect_err("no answer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_error_response_is_not_an_address() {
        let server = server(0, |request, _| {
            let mut out = vec![0; 64];
            let mut writer = MessageWriter::new(&mut out, Class::Error, Method::Binding, request.transaction_id());
            writer.error_code(420, "");
            let len = writer.finish().expect("fits");
            out.truncate(len);
            out
        });
        let error = ask_stun(server, LOCALHOST, Duration::from_secs(3), None).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn private_means_of_no_use_on_the_internet() {
        for ip in [
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.1.1",
            "127.0.0.1",
            "fd00::1",
            "fe80::1",
            "::1",
        ] {
            assert!(is_private(ip.parse().expect("an address")), "{ip}");
        }
        for ip in [
            "100.63.255.255",
            "100.128.0.0",
            "203.0.113.1",
            "172.32.0.1",
            "2001:db8::1",
            "2606:4700::1",
        ] {
            assert!(!is_private(ip.parse().expect("an address")), "{ip}");
        }
    }
}

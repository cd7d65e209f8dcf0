//! Finds the process that holds a port, as far as this user may see it.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// `name (pid n)` of the process that listens on `address`.
pub(super) fn find(address: SocketAddr, protocol: &str) -> Option<String> {
    let table = protocol.to_ascii_lowercase();
    let inode = ["", "6"].into_iter().find_map(|family| {
        let text = fs::read_to_string(format!("/proc/net/{table}{family}")).ok()?;
        text.lines().skip(1).find_map(|line| inode_of(line, address))
    })?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_pid(name))
        .find_map(|pid| {
            let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
            files.find(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(format!("{} (pid {pid})", name.trim().replace(char::is_control, "?")))
        })
}

fn is_pid(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// The inode in a line of `/proc/net/{tcp,udp}[6]` if its local address conflicts with `wanted`.
fn inode_of(line: &str, wanted: SocketAddr) -> Option<u64> {
    let fields = line.split_ascii_whitespace().collect::<Vec<_>>();
    let (&local, &state, &inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    // Listening (TCP) or unconnected (UDP).
    let waits = state == "0A" || state == "07";
    let same_port = u16::from_str_radix(port, 16).ok()? == wanted.port();
    let ip = parse_ip(ip)?;
    let same_ip = ip == wanted.ip() || ip.is_unspecified() || wanted.ip().is_unspecified();
    if waits && same_port && same_ip {
        inode.parse().ok().filter(|&inode| inode != 0)
    } else {
        None
    }
}

/// Words of 32 bits in the machine's byte order, in hexadecimal.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Some(IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let udp = UdpSocket::bind("[::1]:0")
            .or_else(|_| UdpSocket::bind("127.0.0.1:0"))
            .expect("bind");
        for (address, protocol) in [(tcp.local_addr(), "TCP"), (udp.local_addr(), "UDP")] {
            let holder = find(address.expect("address"), protocol).expect("a process of our own is visible");
            assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
        }
        let address = tcp.local_addr().expect("address");
        let everywhere = |address: SocketAddr| SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(find(everywhere(address), "TCP").is_some(), "one address is one of all");
        drop(tcp);
        assert_eq!(find(address, "TCP"), None);

        let all = TcpListener::bind("0.0.0.0:0").expect("bind");
        let address = SocketAddr::from(([127, 0, 0, 9], all.local_addr().expect("address").port()));
        assert!(find(address, "TCP").is_some(), "all addresses hold each");
        // Not a process that only uses the port for a connection.
        let client = std::net::TcpStream::connect(address).expect("connected");
        assert_eq!(find(client.local_addr().expect("address"), "TCP"), None);
    }

    #[test]
    fn addresses_are_read_in_the_kernels_way() {
        if cfg!(target_endian = "little") {
            assert_eq!(parse_ip("0100007F"), Some("127.0.0.1".parse().expect("ip")));
            assert_eq!(
                parse_ip("00000000000000000000000001000000"),
                Some("::1".parse().expect("ip"))
            );
        }
        for bad in ["", "0100007", "x100007F", "0100007F0"] {
            assert_eq!(parse_ip(bad), None, "{bad}");
        }
    }
}

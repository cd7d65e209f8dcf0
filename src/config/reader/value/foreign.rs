//! Addresses, ports and networks as other programs write them: what to write here instead.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::bind::{Bind, BindHost, is_host_name};
use super::{parts_of, quoted};
use crate::base::address::Family;

/// So many networks are still written out for a range of addresses.
const MOST_NETWORKS: usize = 8;

/// What to write instead of `text` behind `bind`: `443`, `:443`, `0.0.0.0`, `tcp://0.0.0.0:443`.
pub(super) fn bind(text: &str) -> Option<String> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.split_once('/').map_or(bare, |(address, _)| address).trim();
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let host = |text: &str| match text.trim().trim_start_matches('[').trim_end_matches(']') {
        "" | "*" | "0" | "any" | "all" => Some(BindHost::Any),
        host => match host.parse::<IpAddr>() {
            Ok(ip) => Some(BindHost::Ip(ip)),
            Err(_) => is_host_name(host).then(|| BindHost::Name(host.to_owned())),
        },
    };
    let write = |host, port| Some(format!("write {}", quoted(&Bind { host, port }.to_string())));
    if bare.is_empty() {
        return None;
    }
    if let Some(port) = port(bare) {
        return write(BindHost::Any, port);
    }
    if bare.bytes().all(|b| b.is_ascii_digit()) {
        return Some("ports are from 1 to 65535: for example \"*:443\"".to_owned());
    }
    // An IPv6 address alone holds colons, too.
    let is_alone = bare.parse::<IpAddr>().is_ok() || bare.ends_with(']') || !bare.contains(':');
    if is_alone {
        return match host(bare)? {
            BindHost::Ip(ip) if ip.is_unspecified() => {
                let all = if ip.is_ipv4() {
                    "every IPv4 address"
                } else {
                    "every IPv6 address"
                };
                let this = Bind {
                    host: BindHost::Ip(ip),
                    port: 3478,
                };
                Some(format!(
                    "add the port: \"*:3478\", or {} for {all} alone",
                    quoted(&this.to_string())
                ))
            }
            host => Some(format!(
                "add the port: {}",
                quoted(&Bind { host, port: 3478 }.to_string())
            )),
        };
    }
    let (before, behind) = bare.rsplit_once(':')?;
    match (port(behind), host(before)) {
        (Some(port), Some(host)) => write(host, port),
        (None, Some(_)) => Some("behind the colon stands a port from 1 to 65535: for example \"*:443\"".to_owned()),
        (_, None) => None,
    }
}

/// What to write instead of `text` where a duration is expected: `10 seconds`, `5min`, `1 hour`.
pub(super) fn duration(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit.as_str() {
        // A number in quotes is read as one of seconds, where none is written.
        "" | "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "ms" | "msec" | "msecs" | "milli" | "millis" | "millisecond" | "milliseconds" => "ms",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        "w" | "week" | "weeks" => return Some(format!("write {}", quoted(&format!("{}d", number.checked_mul(7)?)))),
        _ => return None,
    };
    Some(format!("write {}", quoted(&format!("{number}{unit}"))))
}

/// What to write instead of `text` where a size is expected: `256kb`, `256k`, `4 megabytes`.
pub(super) fn size(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text)?;
    let letter = match unit.as_str() {
        "" | "b" | "byte" | "bytes" => {
            return Some(format!(
                "write {number}, without quotes, or {}",
                quoted(&format!("{number}B"))
            ));
        }
        "k" | "kb" | "kib" | "kbyte" | "kbytes" | "kilobyte" | "kilobytes" | "kibibyte" | "kibibytes" => ('K', 'k'),
        "m" | "mb" | "mib" | "mbyte" | "mbytes" | "megabyte" | "megabytes" | "mebibyte" | "mebibytes" => ('M', 'M'),
        "g" | "gb" | "gib" | "gbyte" | "gbytes" | "gigabyte" | "gigabytes" | "gibibyte" | "gibibytes" => ('G', 'G'),
        _ => return None,
    };
    let (binary, decimal) = letter;
    Some(format!(
        "write {}, which counts in 1024, or {}, which counts in 1000",
        quoted(&format!("{number}{binary}iB")),
        quoted(&format!("{number}{decimal}B"))
    ))
}

/// A whole number and the small letters behind it.
fn number_and_unit(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text[..text.len() - unit.len()].parse().ok()?;
    Some((number, unit.trim().to_ascii_lowercase()))
}

/// What to write instead of `text` where a network is expected: `10.0.0.1-10.0.0.9`, `10.0.8.*`, a host name.
pub(super) fn network(text: &str) -> Option<String> {
    let write = |nets: &[IpNet]| {
        let all: Vec<String> = nets.iter().map(|net| quoted(&shown(*net))).collect();
        Some(format!("write {}", all.join(", ")))
    };
    let inner = text.trim_start_matches('[').trim_end_matches(']');
    if inner != text
        && let Ok(ip) = inner.parse::<IpAddr>()
    {
        return write(&[IpNet::from(ip)]);
    }
    if text.contains(|c: char| c.is_whitespace() || ",;".contains(c)) {
        return Some(format!(
            "one network in each pair of quotes: {}",
            parts_of(text).join(", ")
        ));
    }
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>())
    {
        return match range(first, last) {
            Some(nets) if nets.len() <= MOST_NETWORKS => write(&nets),
            Some(_) => Some("write the range as networks, such as \"10.0.8.0/24\"".to_owned()),
            None => Some("the range runs backwards, or from one family to the other".to_owned()),
        };
    }
    if let Some((address, mask)) = text.split_once('/')
        && let (Ok(ip), Ok(mask)) = (address.parse::<Ipv4Addr>(), mask.parse::<Ipv4Addr>())
    {
        let length = ipnet::ipv4_mask_to_prefix(mask).ok()?;
        return write(&[IpNet::new(IpAddr::V4(ip), length).ok()?.trunc()]);
    }
    if let Some(net) = shortened(text) {
        return write(&[net]);
    }
    if text == "localhost" {
        return Some("write \"127.0.0.1\" or \"::1\"".to_owned());
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.parse::<u16>().is_ok()
        && host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    {
        return Some(format!(
            "write the address without the port: {}",
            quoted(host.trim_matches(['[', ']']))
        ));
    }
    is_host_name(text)
        .then(|| "names are not looked up here: write the address the name has, as \"10.0.8.7\"".to_owned())
}

/// The networks that make up all addresses from `first` to `last`.
fn range(first: IpAddr, last: IpAddr) -> Option<Vec<IpNet>> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Some(
            Ipv4Subnets::new(first, last, 0)
                .take(MOST_NETWORKS + 1)
                .map(IpNet::V4)
                .collect(),
        ),
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Some(
            Ipv6Subnets::new(first, last, 0)
                .take(MOST_NETWORKS + 1)
                .map(IpNet::V6)
                .collect(),
        ),
        _ => None,
    }
}

/// `10.0.8.*`, `10.0.8.`, `10.0.8/24`, `10/8`: an IPv4 network with parts left out.
fn shortened(text: &str) -> Option<IpNet> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let parts: Vec<&str> = address
        .split('.')
        .filter(|part| !part.is_empty() && *part != "*")
        .collect();
    if parts.is_empty() || parts.len() > 3 || (length.is_none() && !text.ends_with(['*', '.'])) {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(&parts) {
        *octet = part.parse().ok()?;
    }
    let whole = u8::try_from(parts.len() * 8).ok()?;
    let net = IpNet::new(IpAddr::V4(octets.into()), length.unwrap_or(whole)).ok()?;
    Some(net.trunc())
}

fn shown(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// What to write instead of `text` behind `external.ipv4`: coturn's `external/internal`, an address with a port.
pub(super) fn external(text: &str) -> Option<String> {
    let ip = |text: &str| text.trim().trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let key = |ip: IpAddr| match Family::of(ip) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    if let Some((outside, inside)) = text.split_once('/') {
        let outside = ip(outside)?;
        let Some(inside) = ip(inside) else {
            return Some(format!("write the address alone: \"{outside}\""));
        };
        return Some(format!(
            "write `external.{} = \"{outside}\"` and `relay.{} = \"{inside}\"`",
            key(outside),
            key(inside)
        ));
    }
    if text.contains(|c: char| c.is_whitespace() || ",;".contains(c)) {
        let first = text
            .split(|c: char| c.is_whitespace() || ",;".contains(c))
            .find_map(ip)?;
        return Some(format!(
            "one address of each family: \"{first}\" in `external.{}`",
            key(first)
        ));
    }
    let (host, port) = text.rsplit_once(':')?;
    let address = ip(host).filter(|_| port.parse::<u16>().is_ok())?;
    Some(format!(
        "write the address alone: \"{address}\"; the ports are `relay.ports`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_in_other_units_are_written_as_here() {
        for (text, help) in [
            ("10 seconds", "write \"10s\""),
            ("10", "write \"10s\""),
            ("5min", "write \"5m\""),
            ("1 Hour", "write \"1h\""),
            ("2 weeks", "write \"14d\""),
            ("250 millis", "write \"250ms\""),
        ] {
            assert_eq!(duration(text).as_deref(), Some(help), "{text}");
        }
        for text in ["", "soon", "5 lightyears", "1.5h", "-5s"] {
            assert_eq!(duration(text), None, "{text}");
        }
        let thousands = |binary, decimal| {
            format!("write \"{binary}\", which counts in 1024, or \"{decimal}\", which counts in 1000")
        };
        for (text, help) in [
            ("256kb", thousands("256KiB", "256kB")),
            ("256 KB", thousands("256KiB", "256kB")),
            ("256k", thousands("256KiB", "256kB")),
            ("4 megabytes", thousands("4MiB", "4MB")),
            ("4mib", thousands("4MiB", "4MB")),
            ("1G", thousands("1GiB", "1GB")),
            ("65536", "write 65536, without quotes, or \"65536B\"".to_owned()),
            ("65536 bytes", "write 65536, without quotes, or \"65536B\"".to_owned()),
        ] {
            assert_eq!(size(text), Some(help), "{text}");
        }
        for text in ["", "kb", "much", "4 parsecs", "1.5MiB", "-1kB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn what_other_programs_bind_to_is_written_as_it_is_here() {
        for (text, help) in [
            ("443", "write \"*:443\""),
            (":443", "write \"*:443\""),
            ("0:443", "write \"*:443\""),
            ("any:443", "write \"*:443\""),
            ("tcp://0.0.0.0:443", "write \"0.0.0.0:443\""),
            ("443/udp", "write \"*:443\""),
            (
                "[::]",
                "add the port: \"*:3478\", or \"[::]:3478\" for every IPv6 address alone",
            ),
            (
                "0.0.0.0",
                "add the port: \"*:3478\", or \"0.0.0.0:3478\" for every IPv4 address alone",
            ),
            (
                "::",
                "add the port: \"*:3478\", or \"[::]:3478\" for every IPv6 address alone",
            ),
            ("192.0.2.1", "add the port: \"192.0.2.1:3478\""),
            ("turn.example.org", "add the port: \"turn.example.org:3478\""),
            ("*", "add the port: \"*:3478\""),
            ("70000", "ports are from 1 to 65535: for example \"*:443\""),
            (
                "*:https",
                "behind the colon stands a port from 1 to 65535: for example \"*:443\"",
            ),
        ] {
            assert_eq!(bind(text).as_deref(), Some(help), "{text}");
        }
    }

    #[test]
    fn networks_of_other_servers_are_written_as_here() {
        for (text, help) in [
            ("10.0.0.0-10.255.255.255", "write \"10.0.0.0/8\""),
            ("10.0.8.4-10.0.8.6", "write \"10.0.8.4/31\", \"10.0.8.6\""),
            ("2001:db8::-2001:db8::ff", "write \"2001:db8::/120\""),
            (
                "10.0.8.9-10.0.8.1",
                "the range runs backwards, or from one family to the other",
            ),
            ("10.0.8.0/255.255.255.0", "write \"10.0.8.0/24\""),
            ("10.0.8.*", "write \"10.0.8.0/24\""),
            ("10.0.8/24", "write \"10.0.8.0/24\""),
            ("10/8", "write \"10.0.0.0/8\""),
            ("[2001:db8::1]", "write \"2001:db8::1\""),
            ("10.0.8.7:443", "write the address without the port: \"10.0.8.7\""),
            (
                "10.0.0.0/8, 10.1.0.0/16",
                "one network in each pair of quotes: \"10.0.0.0/8\", \"10.1.0.0/16\"",
            ),
            ("localhost", "write \"127.0.0.1\" or \"::1\""),
            (
                "sfu.example.org",
                "names are not looked up here: write the address the name has, as \"10.0.8.7\"",
            ),
        ] {
            assert_eq!(network(text).as_deref(), Some(help), "{text}");
        }
        assert_eq!(network("10.0.8.0/33"), None);
        assert_eq!(
            network("10.0.0.1-10.200.0.7").as_deref(),
            Some("write the range as networks, such as \"10.0.8.0/24\"")
        );
    }

    #[test]
    fn external_addresses_of_coturn_are_written_as_here() {
        for (text, help) in [
            (
                "203.0.113.5/10.0.0.5",
                "write `external.ipv4 = \"203.0.113.5\"` and `relay.ipv4 = \"10.0.0.5\"`",
            ),
            (
                "2001:db8::5/fd00::5",
                "write `external.ipv6 = \"2001:db8::5\"` and `relay.ipv6 = \"fd00::5\"`",
            ),
            ("203.0.113.5/24", "write the address alone: \"203.0.113.5\""),
            (
                "203.0.113.5:3478",
                "write the address alone: \"203.0.113.5\"; the ports are `relay.ports`",
            ),
            (
                "203.0.113.5, 203.0.113.6",
                "one address of each family: \"203.0.113.5\" in `external.ipv4`",
            ),
        ] {
            assert_eq!(external(text).as_deref(), Some(help), "{text}");
        }
        assert_eq!(external("stun:stun.example.org:3478"), None);
        assert_eq!(external("turn.example.org"), None);
    }

    #[test]
    fn a_range_of_many_networks_is_not_written_out() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (first, last) in [("10.0.0.1", "10.255.255.254"), ("2001:db8::1", "2001:db8:ffff::")] {
            let nets = range(ip(first), ip(last)).expect("a range");
            assert_eq!(nets.len(), MOST_NETWORKS + 1, "{first}");
            assert_eq!(range(ip(last), ip(first)), None);
        }
    }

    #[test]
    fn a_network_with_parts_left_out_is_completed_and_an_address_is_none() {
        for (text, net) in [
            ("10.0.8.*", Some("10.0.8.0/24")),
            ("10.0.8.", Some("10.0.8.0/24")),
            ("10.*", Some("10.0.0.0/8")),
            ("10.0.8/24", Some("10.0.8.0/24")),
            ("10.0.8/16", Some("10.0.0.0/16")),
            ("10/8", Some("10.0.0.0/8")),
            ("10.0.8", None),
            ("10.0.8.7", None),
            ("10.0.8.7/24", None),
            ("10.0.8.7.", None),
            ("*", None),
            ("/8", None),
            ("10.0.300.*", None),
            ("10.0/33", None),
        ] {
            assert_eq!(shortened(text).map(|net| net.to_string()).as_deref(), net, "{text}");
        }
    }
}

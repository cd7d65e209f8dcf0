//! Per family: where relay sockets are bound, and which address and ports are announced for them.

use std::net::{IpAddr, Ipv4Addr};

use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::section::Located;
use super::super::reader::value::{Auto, External, Host, OffOr, Ports};
use super::super::sections::Raw;
use super::super::settings::ExternalSettings;
use super::Context;
use crate::base::address::Family;
use crate::machine::external::{AddressSource, Local, Plan, key};
use crate::turn::config::{RelayAddress, RelayConfig};

/// What was found.
pub(super) struct FoundAddresses {
    pub(super) relay: RelayConfig,
    /// Each address with how it was found, for the log.
    pub(super) told: Vec<(IpAddr, String)>,
    /// How to look again.
    pub(super) settings: ExternalSettings,
}

impl FoundAddresses {
    /// Where a configuration is only looked at, on a machine it is not for.
    pub(super) fn none(raw: &Raw) -> Self {
        Self {
            relay: relay_config(raw),
            told: Vec::new(),
            settings: settings(raw),
        }
    }
}

/// One family's keys.
struct Keys<'a> {
    family: Family,
    external: &'a Located<External>,
    relay: &'a Located<Auto<Host>>,
}

impl Keys<'_> {
    fn of(raw: &Raw) -> [Keys<'_>; 2] {
        [
            Keys {
                family: Family::V4,
                external: &raw.external.ipv4,
                relay: &raw.relay.ipv4,
            },
            Keys {
                family: Family::V6,
                external: &raw.external.ipv6,
                relay: &raw.relay.ipv6,
            },
        ]
    }

    /// What is written as `relay.ipv4`; of the wrong family is reported by the checks already.
    fn bind(&self) -> Option<Local> {
        match &self.relay.value {
            Auto::Given(Host::Ip(ip)) => Some(Local::Ip(*ip)).filter(|_| Family::of(*ip) == self.family),
            Auto::Given(Host::Name(name)) => Some(Local::Name(name.clone())),
            Auto::Auto => None,
        }
    }

    /// `None`: the family is off, or what is written cannot be, and is reported by the checks already.
    fn plan(&self, raw: &Raw) -> Option<Plan> {
        let source = match &self.external.value {
            External::Off => return None,
            External::Auto => AddressSource::Auto,
            External::Fixed(ip) if Family::of(*ip) != self.family => return None,
            External::Fixed(ip) => AddressSource::Fixed(*ip),
            External::Interface(name) => AddressSource::Interface(name.clone()),
            External::Name(name) => AddressSource::Name(name.clone()),
            External::Stun { host, port } => AddressSource::Stun {
                host: host.clone(),
                port: *port,
            },
        };
        Some(Plan {
            family: self.family,
            source,
            bind: self.bind(),
            stun_timeout: raw.external.stun_timeout.value,
        })
    }
}

/// No address yet.
fn relay_config(raw: &Raw) -> RelayConfig {
    let ports = &raw.relay.ports.value.0;
    let port_shift = match &raw.external.ports.value {
        Auto::Given(Ports(announced)) => i32::from(*announced.start()) - i32::from(*ports.start()),
        Auto::Auto => 0,
    };
    RelayConfig {
        ipv4: None,
        ipv6: None,
        ports: ports.clone(),
        port_shift,
    }
}

fn settings(raw: &Raw) -> ExternalSettings {
    let OffOr(recheck) = raw.external.recheck.value;
    ExternalSettings {
        plans: Keys::of(raw).iter().filter_map(|keys| keys.plan(raw)).collect(),
        recheck,
    }
}

/// `None` if something is wrong.
pub(super) fn find(raw: &Raw, cx: &mut Context<'_>) -> Option<FoundAddresses> {
    let before = cx.d.counts().0;
    let mut found = FoundAddresses::none(raw);
    for keys in Keys::of(raw) {
        let Some((address, how)) = one_family(&keys, raw, cx) else {
            continue;
        };
        let key = key(keys.family);
        let announced = address.announced;
        cx.effective
            .note(&format!("external.{key}"), format!("{announced}, {how}"));
        cx.effective.note(&format!("relay.{key}"), address.bind.to_string());
        found.told.push((announced, how));
        found.relay.set(keys.family, Some(address));
    }
    if cx.d.counts().0 > before {
        return None;
    }
    // Both off is reported by the checks already.
    let off = |external: &Located<External>| external.value == External::Off;
    let all_off = off(&raw.external.ipv4) && off(&raw.external.ipv6);
    if found.relay.ipv4.is_none() && found.relay.ipv6.is_none() && !all_off {
        if raw.external.ipv4.value != External::Auto {
            let diagnostic = cx.here("this machine has no address to relay from");
            cx.d.push(
                diagnostic
                    .at(raw.external.ipv6.place)
                    .help("set `external.ipv4` and `relay.ipv4`"),
            );
            return None;
        }
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        found.relay.ipv4 = Some(RelayAddress {
            bind: ip,
            announced: ip,
        });
        found.told.push((ip, "loopback: this machine has no other".into()));
        let diagnostic = Diagnostic::warning("this machine has no address but loopback: nobody else can be relayed");
        cx.d.push(diagnostic.help("connect it to a network, or set `external.ipv4`"));
    }
    Some(found)
}

/// The address, and how it was found; `None` if the family is not served, or something is wrong.
fn one_family(keys: &Keys<'_>, raw: &Raw, cx: &mut Context<'_>) -> Option<(RelayAddress, String)> {
    let key = key(keys.family);
    if let Some(Local::Ip(ip)) = keys.bind()
        && keys.external.value != External::Off
        && !ip.is_multicast()
        && !cx.env.can_bind(ip)
    {
        let diagnostic = cx.here(format!("`relay.{key}`: {ip} is not an address of this machine"));
        cx.d.push(
            diagnostic
                .at(keys.relay.place)
                .maybe_help(own_addresses(keys.family, cx)),
        );
    }
    let found = match keys.plan(raw)?.find(cx.env) {
        Ok(found) => found?,
        Err(error) => {
            let place = keys.external.place.or(keys.relay.place);
            let diagnostic = cx.here(error.message).at(place);
            cx.d.push(diagnostic.help(error.help));
            return None;
        }
    };
    if found.private {
        let message = format!(
            "`external.{key} = \"auto\"` found only {}, an address without meaning on the Internet",
            found.address.announced
        );
        let diagnostic = Diagnostic::warning(message).at(keys.external.place);
        cx.d.push(diagnostic.help(format!(
            "within that network all is well; else set `external.{key}` to the public address, to \"stun:host:port\", or to \"off\""
        )));
    }
    Some((found.address, found.how))
}

fn own_addresses(family: Family, cx: &Context<'_>) -> Option<String> {
    let all = cx.machine.interfaces.iter().map(|interface| interface.ip);
    let all: Vec<String> = all
        .filter(|ip| Family::of(*ip) == family)
        .map(|ip| ip.to_string())
        .collect();
    (!all.is_empty()).then(|| format!("it has {}", all.join(", ")))
}

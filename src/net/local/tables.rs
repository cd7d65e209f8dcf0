//! The routing tables that packets of this process can reach, by the rules of policy routing
//! (ip-rule(8)).

use std::collections::BTreeMap;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

/// `local`, `main` and `default`, which are used without any rule.
const BUILT_IN: [u32; 3] = [255, 254, 253];

/// The tables that rules name, by family.
#[derive(Debug, Default)]
pub(super) struct Tables {
    v4: Family,
    v6: Family,
}

#[derive(Debug, Default)]
struct Family {
    any_rule: bool,
    /// Whether a rule that leads to the table matches our packets.
    named: BTreeMap<u32, bool>,
    /// A rule leads to the tables of VRFs without naming them.
    vrf: bool,
}

impl Tables {
    fn of(&mut self, family: AddressFamily) -> Option<&mut Family> {
        match family {
            AddressFamily::Inet => Some(&mut self.v4),
            AddressFamily::Inet6 => Some(&mut self.v6),
            _ => None,
        }
    }

    /// Evaluates a rule.
    pub(super) fn add(&mut self, rule: &RuleMessage) {
        let Some(family) = self.of(rule.header.family) else {
            return;
        };
        family.any_rule = true;
        if rule.header.action != RuleAction::ToTable {
            return;
        }
        if rule
            .attributes
            .iter()
            .any(|it| matches!(it, RuleAttribute::L3MDev(true)))
        {
            family.vrf |= may_be_met(rule);
            return;
        }
        let table = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| rule.header.table.into());
        *family.named.entry(table).or_default() |= may_be_met(rule);
    }

    /// Whether our packets can reach the table of the route.
    pub(super) fn count(&self, route: &RouteMessage) -> bool {
        let family = match route.header.address_family {
            AddressFamily::Inet => &self.v4,
            AddressFamily::Inet6 => &self.v6,
            _ => return false,
        };
        let table = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| route.header.table.into());
        if !family.any_rule {
            return BUILT_IN.contains(&table);
        }
        family.named.get(&table).copied().unwrap_or(family.vrf)
    }
}

/// Whether a packet sent by this process can match the rule. Such a packet has no mark (SO_MARK is
/// never set) and arrived on no interface. Every other condition of a rule may hold for some peer.
fn may_be_met(rule: &RuleMessage) -> bool {
    if rule.header.flags.contains(RuleFlags::Invert) {
        return true;
    }
    let (mut mark, mut mask, mut arrived) = (0, u32::MAX, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            // Packets that this machine sends count as arrived on `lo`.
            RuleAttribute::Iifname(name) => arrived = name != "lo",
            _ => {}
        }
    }
    mark & mask == 0 && !arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(table: u32, attributes: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = attributes.to_vec();
        rule.attributes.push(RuleAttribute::Table(table));
        rule
    }

    fn counts(tables: &Tables, table: u32) -> bool {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.attributes.push(RouteAttribute::Table(table));
        tables.count(&route)
    }

    fn with(rules: &[RuleMessage]) -> Tables {
        let mut tables = Tables::default();
        rules.iter().for_each(|rule| tables.add(rule));
        tables
    }

    #[test]
    fn without_rules_the_built_in_tables_count() {
        let tables = with(&[]);
        assert!(counts(&tables, 255) && counts(&tables, 254) && counts(&tables, 253) && !counts(&tables, 100));
    }

    #[test]
    fn a_table_for_marked_or_forwarded_packets_alone_does_not_count() {
        let marked = [RuleAttribute::FwMark(1), RuleAttribute::FwMask(u32::MAX)];
        let arrived = [RuleAttribute::Iifname("eth0".into())];
        for conditions in [&marked[..], &arrived] {
            let tables = with(&[rule(255, &[]), rule(100, conditions)]);
            assert!(counts(&tables, 255) && !counts(&tables, 100) && !counts(&tables, 200));
            let both = with(&[rule(100, conditions), rule(100, &[])]);
            assert!(counts(&both, 100), "some rule leads there");
            let mut inverted = rule(100, conditions);
            inverted.header.flags = RuleFlags::Invert;
            assert!(counts(&with(&[inverted]), 100), "WireGuard's: not fwmark");
        }
    }

    #[test]
    fn a_rule_that_packets_of_ours_may_meet_makes_its_table_count() {
        let unmarked = [RuleAttribute::FwMark(0), RuleAttribute::FwMask(0xff)];
        let other_bits = [RuleAttribute::FwMark(0x100), RuleAttribute::FwMask(0xff)];
        let own = [RuleAttribute::Iifname("lo".into())];
        let to = [RuleAttribute::Destination([10, 9, 0, 0].into())];
        for conditions in [&unmarked[..], &other_bits, &own, &to, &[]] {
            assert!(counts(&with(&[rule(100, conditions)]), 100), "{conditions:?}");
        }
    }

    #[test]
    fn each_family_has_rules_and_tables_of_its_own() {
        let mut v6 = rule(100, &[]);
        v6.header.family = Inet6;
        let tables = with(&[v6]);
        let counts = |family, table| {
            let mut route = RouteMessage::default();
            route.header.address_family = family;
            route.attributes.push(RouteAttribute::Table(table));
            tables.count(&route)
        };
        use AddressFamily::{Inet, Inet6, Unix};
        assert!(counts(Inet6, 100) && !counts(Inet6, 255));
        assert!(!counts(Inet, 100) && counts(Inet, 255));
        assert!(!counts(Unix, 100) && !counts(Unix, 255));
    }

    #[test]
    fn tables_of_vrfs_count_where_no_rule_says_otherwise() {
        let tables = with(&[
            rule(0, &[RuleAttribute::L3MDev(true)]),
            rule(100, &[RuleAttribute::FwMark(1)]),
        ]);
        assert!(counts(&tables, 10) && !counts(&tables, 100));
    }
}

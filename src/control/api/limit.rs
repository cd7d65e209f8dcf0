//! Rate limits for minting: per client address, per network and per key.
//!
//! The tables have a fixed size, so clients cannot make them grow. Two sources that hash to one
//! bucket share its budget. [`crate::base::source`] defines source and network.

use core::time::Duration;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::base::rate::{Rate, RateTable, SharedBucket};
use crate::base::source::Source;
use crate::base::time::Instant;

/// Over the limit. Retrying succeeds after this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

/// Limits mints per minute and client address, and per network.
pub(super) struct PerAddress {
    sources: Option<(Rate, RateTable)>,
    networks: Option<(Rate, RateTable)>,
}

impl PerAddress {
    /// Mints per minute, which is the burst as well; 0 means no limit.
    pub(super) fn new(per_source: u32, per_network: u32) -> Self {
        // The seed is random, so no client can aim at another one's bucket.
        let table = |rate| (rate, RateTable::new(RandomState::new().hash_one(())));
        Self {
            sources: per_minute(per_source).map(table),
            networks: per_minute(per_network).map(table),
        }
    }

    /// Takes one from the budgets of `client`.
    pub(super) fn take(&self, now: Instant, client: IpAddr) -> Result<(), TooMany> {
        let source = Source::from(client);
        if let Some((rate, table)) = &self.sources {
            table.take(now, source, *rate).map_err(TooMany)?;
        }
        // Taken second, so that no source uses more of it than its own share.
        if let Some((rate, table)) = &self.networks {
            table.take(now, source.network(), *rate).map_err(TooMany)?;
        }
        Ok(())
    }
}

/// Limits mints per minute and key.
pub(super) struct PerKey {
    rate: Option<Rate>,
    bucket: SharedBucket,
}

impl PerKey {
    /// Mints per minute, which is the burst as well; 0 means no limit.
    pub(super) fn new(per_key: u32) -> Self {
        Self {
            rate: per_minute(per_key),
            bucket: SharedBucket::default(),
        }
    }

    /// Takes one from the budget.
    pub(super) fn take(&self, now: Instant) -> Result<(), TooMany> {
        let Some(rate) = self.rate else { return Ok(()) };
        self.bucket.take(now, rate).map_err(TooMany)
    }
}

fn per_minute(events: u32) -> Option<Rate> {
    let interval = Duration::from_secs(60).checked_div(events)?;
    Some(Rate::every(interval, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(5);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn an_address_over_its_limit_waits_exactly_as_long_as_it_is_told() {
        let limit = PerAddress::new(6, 0);
        for _ in 0..6 {
            limit.take(NOW, ip("192.0.2.1")).expect("within the limit");
        }
        let TooMany(wait) = limit.take(NOW, ip("192.0.2.1")).expect_err("over the limit");
        assert_eq!(wait, Duration::from_secs(10));
        let early = NOW + (wait - Duration::from_nanos(1));
        limit.take(early, ip("192.0.2.1")).expect_err("one nanosecond early");
        limit.take(NOW + wait, ip("192.0.2.1")).expect("in time");
    }

    #[test]
    fn one_address_does_not_use_up_the_budget_of_another() {
        let limit = PerAddress::new(1, 0);
        limit.take(NOW, ip("192.0.2.1")).expect("first");
        limit.take(NOW, ip("192.0.2.1")).expect_err("second");
        // Two addresses share a slot once in 16,384; of a hundred neighbours nearly all must be
        // free.
        let free = (2..102u8)
            .filter(|n| limit.take(NOW, IpAddr::from([192, 0, 2, *n])).is_ok())
            .count();
        assert!(free >= 95, "{free} of 100 other addresses were free");
    }

    #[test]
    fn an_ipv6_client_cannot_escape_by_another_address_of_its_64() {
        let limit = PerAddress::new(1, 0);
        limit.take(NOW, ip("2001:db8:0:1::1")).expect("first");
        limit
            .take(NOW, ip("2001:db8:0:1:ffff:ffff:ffff:ffff"))
            .expect_err("same /64");
    }

    #[test]
    fn one_ipv6_48_or_ipv4_24_mints_no_more_than_a_network_may_however_many_addresses_it_has() {
        let networks: [fn(u16) -> IpAddr; 2] = [
            |n| IpAddr::from([192, 0, 2, n as u8]),
            |n| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]),
        ];
        for network in networks {
            let limit = PerAddress::new(2, 16);
            let minted = (0..200).filter(|&n| limit.take(NOW, network(n)).is_ok()).count();
            assert_eq!(minted, 16);
            limit.take(NOW, ip("198.51.100.1")).expect("another network");
            limit.take(NOW, ip("2001:db8:8::1")).expect("another network");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_means() {
        let limit = PerAddress::new(1, 0);
        limit.take(NOW, ip("::ffff:192.0.2.1")).expect("first");
        limit.take(NOW, ip("192.0.2.1")).expect_err("the same");
    }

    #[test]
    fn a_key_over_its_limit_is_told_to_wait_and_zero_means_no_limit() {
        let limit = PerKey::new(2);
        limit.take(NOW).expect("first");
        limit.take(NOW).expect("second");
        assert_eq!(limit.take(NOW), Err(TooMany(Duration::from_secs(30))));
        limit.take(NOW + Duration::from_secs(30)).expect("after waiting");
        let unlimited = PerKey::new(0);
        for _ in 0..10_000 {
            unlimited.take(NOW).expect("no limit");
        }
    }
}

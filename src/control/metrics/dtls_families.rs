//! Families of the workers' DTLS associations.

use super::exposition::{Exposition, Sample, ShardSum};
use crate::shard::counters::{DtlsClose, DtlsDrop};

/// Adds them to `out`.
pub(super) fn collect(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.gauge(
        "relay_dtls_associations",
        "DTLS associations of clients, including handshakes under way.",
        Sample::plain(sum(&|c| &c.dtls_associations)),
    );
    out.gauge(
        "relay_dtls_half_open",
        "DTLS handshakes under way.",
        Sample::plain(sum(&|c| &c.dtls_half_open)),
    );
    out.counter(
        "relay_dtls_cookies_total",
        "Cookies requested from DTLS clients; the server keeps no state about them.",
        Sample::plain(sum(&|c| &c.dtls_asked)),
    );
    out.counter(
        "relay_dtls_handshakes_total",
        "DTLS handshakes completed.",
        Sample::plain(sum(&|c| &c.dtls_handshakes)),
    );
    out.counter(
        "relay_dtls_closed_total",
        "DTLS associations that ended, by why.",
        DtlsClose::ALL
            .iter()
            .enumerate()
            .map(|(i, why)| Sample::with([("why", why.as_str())], sum(&|c| &c.dtls_closed[i]))),
    );
    out.counter(
        "relay_dtls_dropped_datagrams_total",
        "DTLS datagrams dropped, by reason.",
        DtlsDrop::ALL
            .iter()
            .enumerate()
            .map(|(i, reason)| Sample::with([("reason", reason.as_str())], sum(&|c| &c.dtls_dropped[i]))),
    );
}

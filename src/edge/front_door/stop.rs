//! When a connection has to end.

use tokio::sync::watch;

use super::admission::Displacement;
use super::splice::SpliceEnd;

/// Returns when the server is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Returns when a forwarded connection has to end, and why.
pub(super) async fn over(stop: &mut watch::Receiver<bool>, displacement: &Displacement) -> SpliceEnd {
    tokio::select! {
        () = stopped(stop) => SpliceEnd::Stopped,
        () = displacement.told() => SpliceEnd::Displaced,
    }
}

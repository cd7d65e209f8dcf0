//! What unit tests of a shard share.

#[path = "../../tests/shard_support/mod.rs"]
pub(super) mod shard_support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// What `act` writes to the log, a line for each, levels and targets first.
pub(super) fn lines(act: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let target = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || target.clone())
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

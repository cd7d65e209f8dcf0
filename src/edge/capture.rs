//! Captures what a test's thread logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing::subscriber::{DefaultGuard, set_default};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything this thread logs while the value lives.
pub(crate) struct LogCapture {
    lines: Lines,
    _guard: DefaultGuard,
}

impl LogCapture {
    pub(crate) fn new() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        Self {
            lines,
            _guard: set_default(subscriber.finish()),
        }
    }

    /// The number of lines that contain all of `parts`.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        let bytes = self.lines.0.lock().expect("lock").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        let holds = |line: &&str| parts.iter().all(|part| line.contains(part));
        text.lines().filter(holds).count()
    }
}

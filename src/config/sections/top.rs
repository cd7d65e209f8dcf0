//! The keys above all sections.

use core::time::Duration;
use std::path::PathBuf;

use super::{MINUTE, SECOND};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Auto;

pub(in crate::config) struct RawTop {
    pub(in crate::config) realm: Located<String>,
    pub(in crate::config) state_dir: Located<Auto<PathBuf>>,
    pub(in crate::config) workers: Located<Auto<i128>>,
    pub(in crate::config) start_timeout: Located<Duration>,
    pub(in crate::config) shutdown_timeout: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTop {
    RawTop {
        realm: s.value("realm", "relay".to_owned()),
        state_dir: s.value("state_dir", Auto::Auto),
        workers: s.value("workers", Auto::Auto),
        start_timeout: s.within("start_timeout", MINUTE, Duration::ZERO..=10 * MINUTE),
        shutdown_timeout: s.within("shutdown_timeout", 10 * SECOND, SECOND..=10 * MINUTE),
    }
}

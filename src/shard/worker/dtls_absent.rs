//! Stand-in for `dtls` when the feature is off: an uninhabited type.

use std::ops::Range;

use super::Worker;
use crate::base::address::FiveTuple;
use crate::base::time::Instant;

/// No associations.
#[derive(Debug)]
pub(in crate::shard) enum Dtls {}

impl Dtls {
    pub(super) fn next_due(&self, _: Instant) -> Option<Instant> {
        match *self {}
    }

    pub(super) fn is_empty(&self) -> bool {
        match *self {}
    }

    pub(super) fn has_association(&self, _: &FiveTuple) -> bool {
        match *self {}
    }

    pub(super) fn slots(&self) -> u32 {
        match *self {}
    }
}

impl Worker {
    pub(super) fn receive_dtls(&mut self, _: u32, _: &FiveTuple, _: Range<usize>, _: u8) {}

    pub(super) fn send_dtls(&mut self, _: (u32, u32), _: &[u8], _: Range<usize>, _: usize, _: u8) {}

    pub(super) fn respond_dtls(&mut self, _: (u32, u32)) {}

    pub(super) fn advance_dtls(&mut self) {}

    pub(super) fn check_dtls_deadline(&mut self, _: u32) {}

    pub(super) fn end_dtls(&mut self) {}
}

//! Bytes: what the RFCs print, what other codecs read and write, and what holds whatever the input.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod oracle;
mod properties;
mod vectors;

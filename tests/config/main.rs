//! The configuration as an operator meets it: what is accepted, what is refused and how, files and environment.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![expect(unreachable_pub, reason = "the modules of this test share their helpers")]

mod addresses;
mod broken;
mod capacity;
mod certificates;
mod command;
mod credentials_directory;
mod denied;
mod docs;
mod edges;
mod environment;
mod first_run;
mod forced;
mod load;
mod machine;
mod properties;
mod reference;
mod reloads;
mod secrets;
mod unreadable;

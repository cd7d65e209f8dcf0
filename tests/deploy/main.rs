//! The ways of running it that the documents describe: the container's user on the host's network, the install steps. As
//! root, since all of them begin there.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

mod container;
mod install;
mod place;

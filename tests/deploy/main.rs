//! The ways of running it that the documents describe: the container's user on the host's network. As root, since all
//! of them begin there.

mod container;
mod place;

//! The ways of running it that the documents describe: the container's user on the host's network, the install steps. As
//! root, since all of them begin there.

mod container;
mod install;
mod place;

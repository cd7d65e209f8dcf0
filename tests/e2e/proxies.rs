//! Another proxy or web server on the relay's machine: nginx and HAProxy, configured as in their
//! manuals.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::lab::{Lab, Namespace};
use crate::process::{Output, Process};

/// Debian's nginx loads `stream` from here.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Starts nginx in the relay's namespace with `blocks` (`stream { … }`, `http { … }`), and waits
/// for its port.
pub(crate) fn nginx(lab: &Lab, port: u16, blocks: &str) -> Process {
    let folder = lab.folder().join("nginx");
    fs::create_dir_all(&folder).expect("the lab's folder is writable");
    let configuration = folder.join("nginx.conf");
    let text = format!(
        "load_module {NGINX_STREAM};
         daemon off;
         master_process off;
         pid {folder}/pid;
         error_log stderr info;
         events {{ worker_connections 512; }}
         {blocks}",
        folder = folder.display()
    );
    fs::write(&configuration, text).expect("the lab's folder is writable");
    let mut command = lab.relay().command("nginx");
    command
        .arg("-p")
        .arg(&folder)
        .arg("-e")
        .arg("stderr")
        .arg("-c")
        .arg(&configuration);
    start(lab, "nginx", command, port)
}

/// Paths nginx writes temporary files to, inside its folder, for an `http` block.
pub(crate) fn nginx_temporary_paths(lab: &Lab) -> String {
    let folder = lab.folder().join("nginx");
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let line = |kind: &&str| format!("{kind}_temp_path {}/{kind};", folder.display());
    kinds.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Starts HAProxy in the relay's namespace with the sections `sections`, and waits for its port.
pub(crate) fn haproxy(lab: &Lab, port: u16, sections: &str) -> Process {
    let configuration = lab.folder().join("haproxy.cfg");
    let text = format!(
        "global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
{sections}"
    );
    fs::write(&configuration, text).expect("the lab's folder is writable");
    let mut command = lab.relay().command("haproxy");
    command.arg("-db").arg("-f").arg(&configuration);
    start(lab, "haproxy", command, port)
}

fn start(lab: &Lab, name: &str, command: std::process::Command, port: u16) -> Process {
    let namespace = lab.relay().clone();
    let mut process = Process::start(name, lab.folder(), command, Output::Log);
    process.wait_until("listens", Duration::from_secs(10), |_| listens(&namespace, port));
    process
}

fn listens(namespace: &Namespace, port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    namespace.within(|| TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok())
}

/// Certificate and key in one file, as HAProxy requires.
pub(crate) fn joined(folder: &Path, certificate: &Path, key: &Path) -> std::path::PathBuf {
    let path = folder.join("haproxy.pem");
    let read = |path: &Path| fs::read_to_string(path).expect("a file of the lab");
    crate::process::write_private(&path, &(read(certificate) + &read(key)));
    path
}

//! A real Prosody with the block of `docs/recipes/jitsi.md`: an XMPP client asks it for external
//! services (XEP-0215), and allocates with the result.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay::base::address::Transport;

use crate::client::{Client, Login};
use crate::harness::{SECRET, Server};
use crate::recipes::page;
use relay_testkit::ports::free_port;

/// Time limit of each step: generous, as it only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything except the host's own block. It runs in the foreground, for one user, without TLS or
/// other servers.
const BASE: &str = r#"run_as_root = true
pidfile = "FOLDER/prosody.pid"
data_path = "FOLDER"
interfaces = { "127.0.0.1" }
c2s_ports = { PORT }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
modules_enabled = { "saslauth" }
modules_disabled = { "s2s", "tls" }
log = { { levels = { min = "info" }, to = "console" } }

VirtualHost "meet.example.org"
"#;

/// A running Prosody. Killed when dropped.
struct Prosody {
    child: Child,
    port: u16,
}

impl Prosody {
    fn start(folder: &Path, block: &str) -> Self {
        let port = free_port();
        let accounts = folder.join("meet%2eexample%2eorg/accounts");
        std::fs::create_dir_all(&accounts).expect("a folder for accounts");
        std::fs::write(
            accounts.join("alice.dat"),
            "return { [\"password\"] = \"wonderland\" };\n",
        )
        .expect("an account");
        let config = folder.join("prosody.cfg.lua");
        let base = BASE
            .replace("FOLDER", &folder.display().to_string())
            .replace("PORT", &port.to_string());
        std::fs::write(&config, base + block).expect("its configuration");
        let child = Command::new("prosody")
            .arg("-F")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prosody (sudo tests/install-packages): {error}"));
        Self { child, port }
    }

    fn connect(&mut self) -> TcpStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let address = ([127, 0, 0, 1], self.port).into();
            if let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
                return stream;
            }
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "Prosody ended: {ended:?}");
            assert!(Instant::now() < deadline, "Prosody does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `text` and reads until `end` arrives.
fn exchange(stream: &mut TcpStream, text: &str, end: &str) -> String {
    stream.write_all(text.as_bytes()).expect("Prosody reads");
    let mut answer = String::new();
    let mut part = [0; 4096];
    while !answer.contains(end) {
        let n = stream
            .read(&mut part)
            .unwrap_or_else(|error| panic!("no {end} from Prosody ({error}): {answer}"));
        assert!(n > 0, "Prosody hung up before {end}: {answer}");
        answer.push_str(&String::from_utf8_lossy(&part[..n]));
    }
    answer
}

/// The value of an XML attribute. Prosody writes them in single quotes.
fn attribute(xml: &str, name: &str) -> String {
    let (_, rest) = xml
        .split_once(&format!(" {name}='"))
        .unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split('\'').next().unwrap_or_default().to_owned()
}

//= REST-08
#[test]
fn what_prosody_mints_with_the_jitsi_recipe_allocates() {
    let page = page("jitsi");
    let server = Server::start_recipe(page.relay());
    let folder = server.path("prosody");
    let block = page.block("prosody.cfg.lua").replace("SECRET", SECRET);
    let mut prosody = Prosody::start(&folder, &block);
    let mut xmpp = prosody.connect();
    let open = "<stream:stream to='meet.example.org' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
    exchange(&mut xmpp, &format!("<?xml version='1.0'?>{open}"), "</stream:features>");
    // RFC 4616: NUL alice NUL wonderland.
    let login = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAHdvbmRlcmxhbmQ=</auth>";
    exchange(&mut xmpp, login, "<success");
    exchange(&mut xmpp, &format!("<?xml version='1.0'?>{open}"), "</stream:features>");
    let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    exchange(&mut xmpp, bind, "</iq>");
    let services = "<iq type='get' id='s' to='meet.example.org'><services xmlns='urn:xmpp:extdisco:2'/></iq>";
    let answer = exchange(&mut xmpp, services, "</iq>");
    assert!(answer.contains("type='result'"), "{answer}");
    // After <services …>.
    let (_, service) = answer.rsplit_once("<service").expect("a service");
    assert_eq!(
        ["type", "host", "port", "transport"].map(|name| attribute(service, name)),
        ["turns", "turn.example.org", "443", "tcp"],
        "{answer}"
    );
    let login = Login::new(&attribute(service, "username"), &attribute(service, "password"));
    let mut client = Client::over_transport(Transport::Tls, server.door).with_login(&login);
    assert!(client.allocate().is_ok(), "{answer}");
}

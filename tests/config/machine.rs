//! A machine that is whatever a test says: the configuration never looks at the real one.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use ipnet::IpNet;
use relay::base::address::Family;
use relay::base::time::UnixTime;
use relay::config::reader::diagnostic::{Diagnostics, Finding, Severity};
use relay::config::{Loaded, Purpose, load_for};
use relay::machine;
use relay::machine::network::Interface;
use relay_testkit::folder::Folder;

/// 32 random bytes, of no use anywhere.
pub const SECRET: &str = "Zk3v8yB1qTn5LxW0uHcJr2sEoPdGmA7iFtVb9KfQeXw=";
/// Another.
pub const OLD_SECRET: &str = "p0VtYw6rKcGhQ2nXsDfLj8uMzAe4TbRi1oBvPq5Sx3E=";

pub struct Machine {
    pub dir: Folder,
    pub variables: Vec<(OsString, OsString)>,
    pub default_file: Option<PathBuf>,
    pub interfaces: Vec<(&'static str, &'static str)>,
    /// What else leads here.
    pub networks: Vec<&'static str>,
    /// It does not tell its addresses.
    pub is_mute: bool,
    pub route_v4: Option<&'static str>,
    pub route_v6: Option<&'static str>,
    pub names: Vec<(&'static str, Vec<&'static str>)>,
    /// What the STUN server at this address answers.
    pub stun: Vec<(&'static str, &'static str)>,
    pub asked: RefCell<Vec<(SocketAddr, IpAddr)>>,
    pub open_files: u64,
    /// Of the user `relay`.
    pub user_id: u32,
}

impl Machine {
    /// A server in the Internet, IPv4 and IPv6, with an empty state directory.
    pub fn new() -> Self {
        let dir = Folder::new();
        Self {
            variables: vec![("STATE_DIRECTORY".into(), dir.join("state").into())],
            dir,
            default_file: None,
            interfaces: vec![
                ("lo", "127.0.0.1"),
                ("lo", "::1"),
                ("eth0", "203.0.113.10"),
                ("eth0", "2001:db8:1::10"),
                ("eth1", "10.0.8.2"),
            ],
            networks: Vec::new(),
            is_mute: false,
            route_v4: Some("203.0.113.10"),
            route_v6: Some("2001:db8:1::10"),
            names: vec![("turn.example.org", vec!["203.0.113.10", "2001:db8:1::10"])],
            stun: Vec::new(),
            asked: RefCell::default(),
            open_files: 1 << 20,
            user_id: 1000,
        }
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Writes a file of this test, for its owner alone, and gives back its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join(name);
        fs::write(&path, content).expect("a file of this test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// `fullchain.pem` and `privkey.pem`: a certificate for `name`, valid today and on this machine's clock.
    pub fn certificate(&self, name: &str) {
        self.certificate_for(&[name]);
    }

    /// The same, for several names or addresses.
    pub fn certificate_for(&self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        self.file("fullchain.pem", certificate.pem());
        self.file("privkey.pem", key.serialize_pem());
    }

    pub fn load(&self, toml: &str) -> Result<Loaded, Diagnostics> {
        self.load_for(Purpose::Serve, toml)
    }

    pub fn load_for(&self, purpose: Purpose, toml: &str) -> Result<Loaded, Diagnostics> {
        let path = self.file("relay.toml", toml);
        load_for(purpose, Some(&path), self)
    }

    /// A configuration that must be good.
    pub fn good(&self, toml: &str) -> Loaded {
        self.load(toml).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// What is said of a configuration, whether it is good or not, on a terminal as well.
    pub fn bad_or_good(&self, toml: &str) -> Diagnostics {
        let told = self
            .load(toml)
            .map_or_else(|mistakes| mistakes, |loaded| loaded.warnings);
        assert!(told.render(true).len() < 1024 * 1024);
        told
    }

    /// A configuration that must not be.
    pub fn bad(&self, toml: &str) -> Diagnostics {
        match self.load(toml) {
            Ok(_) => panic!("this should have been refused:\n{toml}"),
            Err(mistakes) => mistakes,
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl machine::Machine for Machine {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.clone()
    }

    fn default_file(&self) -> Option<PathBuf> {
        self.default_file.clone()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let (_, all) = self
            .names
            .iter()
            .find(|(name, _)| *name == host)
            .ok_or_else(|| io::Error::other("no such name"))?;
        Ok(all.iter().map(|text| SocketAddr::new(ip(text), port)).collect())
    }

    fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let one = |(name, text): &(&str, &str)| Interface {
            name: (*name).into(),
            ip: ip(text),
        };
        if self.is_mute {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        Ok(self.interfaces.iter().map(one).collect())
    }

    fn networks(&self) -> io::Result<Vec<IpNet>> {
        let all = self.interfaces.iter().map(|(_, text)| ip(text).into());
        Ok(all
            .chain(self.networks.iter().map(|net| net.parse().expect("a network")))
            .collect())
    }

    fn route_source(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.route_v4.map(ip),
            Family::V6 => self.route_v6.map(ip),
        }
    }

    fn can_bind(&self, wanted: IpAddr) -> bool {
        let family = self
            .interfaces
            .iter()
            .any(|(_, text)| ip(text).is_ipv4() == wanted.is_ipv4());
        (wanted.is_unspecified() && family) || self.interfaces.iter().any(|(_, text)| ip(text) == wanted)
    }

    fn ask_stun(&self, server: SocketAddr, bind: IpAddr, _: Duration) -> io::Result<IpAddr> {
        self.asked.borrow_mut().push((server, bind));
        let (_, answer) = self
            .stun
            .iter()
            .find(|(address, _)| *address == server.to_string())
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no answer within 3s"))?;
        Ok(ip(answer))
    }

    fn cores(&self) -> usize {
        2
    }

    fn open_files(&self) -> Option<u64> {
        Some(self.open_files)
    }

    fn user_id(&self) -> u32 {
        self.user_id
    }

    fn user(&self) -> String {
        "relay".to_owned()
    }

    fn now(&self) -> UnixTime {
        UnixTime(1_800_000_000)
    }
}

/// `line:column severity message | help`, one a line; places outside the file by name.
pub fn summary(mistakes: &Diagnostics, file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    let one = |found: Finding<'_>| {
        let place = match found.source {
            Some(source) if source == file => format!("{}:{}", found.line, found.column),
            Some(source) => format!("{source}:{}:{}", found.line, found.column),
            None => "-".into(),
        };
        let severity = match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let text = format!("{place} {severity}: {} | {}", found.message, found.help.unwrap_or("-"));
        text.replace(
            &format!("{}/", Path::new(&file).parent().expect("a directory").display()),
            "",
        )
    };
    mistakes.iter().map(one).collect()
}

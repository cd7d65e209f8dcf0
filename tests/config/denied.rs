//! What this process may not read or enter is told with what helps, whoever runs these tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use relay::config::{Purpose, load_for};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::machine::{Machine, SECRET};

/// Runs `work` in a thread to which a file's mode applies also where it is root's, and to the threads it starts.
fn as_anybody(work: impl FnOnce() + Send + 'static) {
    let alone = std::thread::spawn(move || {
        let over = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let mut sets = capabilities(None).expect("the kernel tells");
        sets.effective.remove(over);
        sets.permitted.remove(over);
        set_capabilities(None, sets).expect("rights can be given up");
        work();
    });
    if let Err(panic) = alone.join() {
        std::panic::resume_unwind(panic);
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

/// UDP alone, and a secret: nothing else is read or kept.
fn text(more: &str) -> String {
    format!(
        "realm = \"turn.example.org\"\n{more}\ncredentials.secrets = [\"{SECRET}\"]\n\
         listener = [{{ bind = \"*:3478\", protocols = [\"udp\"] }}]\n"
    )
}

#[test]
fn a_configuration_that_may_not_be_read_is_told_with_the_file_or_the_directory_that_is_closed() {
    as_anybody(|| {
        let machine = Machine::new();
        let told = |path: &Path| {
            let mistakes = load_for(Purpose::Serve, Some(path), &machine).expect_err("it cannot be read");
            mistakes.to_string()
        };
        let file = machine.file("closed.toml", text(""));
        chmod(&file, 0);
        let text = told(&file);
        let help = format!(
            "let the user the server runs as (now relay) read it: chown relay {}",
            file.display()
        );
        assert!(text.contains(&help), "{text}");

        let closed = machine.dir.join("closed");
        fs::create_dir_all(closed.join("deep")).expect("directories");
        fs::rename(&file, closed.join("deep/relay.toml")).expect("moved");
        chmod(&closed, 0o600);
        for (name, target) in [
            ("relative", Path::new("closed/deep").to_owned()),
            ("absolute", closed.join("deep")),
        ] {
            symlink(target, machine.dir.join(name)).expect("a link");
        }
        for way in ["closed/deep", "relative", "absolute"] {
            let text = told(&machine.dir.join(way).join("relay.toml"));
            let help = format!(
                "enter {0}: chmod o+x {0}, or setfacl -m u:relay:x {0}",
                closed.display()
            );
            assert!(text.contains(&help), "{way}: {text}");
        }
        chmod(&closed, 0o700);
    });
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_by_a_check() {
    as_anybody(|| {
        let mut machine = Machine::new();
        let dir = machine.dir.join("own");
        let check = |machine: &Machine, state_dir: &Path| {
            let text = text(&format!("state_dir = \"{}\"", state_dir.display()));
            let told = machine.load_for(Purpose::Check, &text);
            told.map_or_else(|mistakes| mistakes, |loaded| loaded.warnings)
                .to_string()
        };
        assert_eq!(check(&machine, &dir.join("a/b")), "", "it can be made");
        fs::create_dir(&dir).expect("a directory");
        chmod(&dir, 0o700);
        assert_eq!(check(&machine, &dir), "");
        chmod(&dir, 0o500);
        let told = check(&machine, &dir);
        assert!(told.contains("cannot write to the state directory"), "{told}");
        assert!(told.contains(&format!("chown -R relay {}", dir.display())), "{told}");
        let told = check(&machine, &dir.join("a/b"));
        assert!(told.contains("is not there, and cannot be made"), "{told}");
        assert!(told.contains("install -d -m 700 -o relay"), "{told}");
        chmod(&dir, 0o600);
        let told = check(&machine, &dir);
        assert!(
            told.contains("cannot write to the state directory"),
            "nor enter it: {told}"
        );
        let told = check(&machine, &dir.join("a"));
        assert!(told.contains("cannot use the state directory"), "{told}");
        assert!(
            told.contains(&format!("enter {0}: chmod o+x {0}", dir.display())),
            "{told}"
        );
        chmod(&dir, 0o777);
        let told = check(&machine, &dir);
        assert!(told.contains("others than its owner may write to"), "{told}");
        chmod(&dir, 0o600);
        let file = machine.file("file", "");
        let told = check(&machine, &file);
        assert!(told.contains("is no directory"), "{told}");

        // systemd gives it to its user before the server starts.
        machine.variables = vec![(
            "STATE_DIRECTORY".into(),
            format!("/elsewhere:{}/a", dir.display()).into(),
        )];
        assert_eq!(check(&machine, &dir.join("a")), "");
        assert!(check(&machine, &dir).contains("cannot write"));
        chmod(&dir, 0o700);
    });
}

#[test]
fn secrets_and_certificates_that_may_not_be_read_are_told_with_what_helps() {
    as_anybody(|| {
        let machine = Machine::new();
        machine.certificate("turn.example.org");
        let secret = machine.file("secret", SECRET);
        let text = "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n\
                    [tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n";
        machine.good(text);
        chmod(&secret, 0);
        let told = machine.bad(text).to_string();
        assert!(told.contains(&format!("chown relay {}", secret.display())), "{told}");
        chmod(&secret, 0o600);
        let key = machine.dir.join("privkey.pem");
        chmod(&key, 0);
        let told = machine.bad(text).to_string();
        assert!(told.contains(&format!("chown relay {}", key.display())), "{told}");
    });
}

//! Forced relay: what clients are told, and what the operator is.

use crate::machine::{Machine, summary};

//= FORCED-04
#[test]
fn forced_uris_are_those_of_the_forced_path() {
    let machine = Machine::new();
    let api = |more: &str| machine.good(&format!("realm = \"t.example\"\n{more}")).settings.api;
    let on_443 = [
        "turns:t.example:443?transport=tcp",
        "turn:t.example:443?transport=udp",
        "turn:t.example:443?transport=tcp",
    ];
    let some = api("");
    assert_eq!(
        (&some.forced_uris[..], some.uris.len(), some.forced),
        (&on_443.map(String::from)[..], 3, false)
    );
    let all = api("[forced_relay]\neveryone = true\n");
    assert_eq!(
        (&all.uris, &all.forced_uris, all.forced),
        (&some.forced_uris, &some.forced_uris, true)
    );
    assert_eq!(api("[forced_relay]\ntransports = [\"tls\"]\n").forced_uris, on_443[..1]);
    let moved = "[forced_relay]\nports = [5349]\n";
    assert_eq!(
        api(moved).forced_uris,
        [
            "turns:t.example:5349?transport=tcp",
            "turn:t.example:5349?transport=tcp",
        ]
    );
    // Written down: those that lead to the path, in their order.
    let written = "uris = [\"stun:t.example:443\", \"turn:t.example\", \"turn:t.example:443\", \"turns:[2001:db8::1]:443\", \"turns:t.example\"]";
    let api = api(&format!("[api]\n{written}\n"));
    assert_eq!(api.forced_uris, ["turn:t.example:443", "turns:[2001:db8::1]:443"]);
    assert_eq!(api.uris.len(), 5);
}

#[test]
fn what_forced_relay_leaves_open_is_told() {
    let machine = Machine::new();
    let warnings = |toml: &str| summary(&machine.good(toml).warnings, &machine.dir.join("relay.toml"));
    let open =
        warnings("[forced_relay]\neveryone = true\n[api]\nuris = [\"turns:t.example:443\", \"turn:t.example:3478\"]\n");
    let expected = [
        "2:12 warning: everyone is forced to port 443, but still open: *:3478 (udp, tcp), *:5349 (tcp, tls, dtls); every Allocate there is refused",
        "2:12 warning: everyone is forced, but Binding is answered",
        "4:32 warning: `api.uris`: \"turn:t.example:3478\" is never handed out, because everyone is forced to port 443",
    ];
    assert_eq!(open.len(), expected.len(), "{open:#?}");
    for (warning, expected) in open.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }
    let closed = "[turn]\nbinding = false\n[forced_relay]\neveryone = true\n[[listener]]\nbind = \"*:443\"\n";
    assert_eq!(warnings(closed), [""; 0]);
    // Forced users among others: only what leaks on their own path.
    let users = "[[credentials.users]]\nname = \"bob\"\npassword = \"kX8sQ2vL5nR9tB3wY7zC\"\nforced = true\n";
    let some = warnings(users);
    assert_eq!(some.len(), 1, "{some:#?}");
    assert!(
        some[0].starts_with("4:10 warning: Binding is answered where forced users must relay")
            && some[0].ends_with("`forced_relay.binding = false`"),
        "{some:?}"
    );
    assert_eq!(warnings(&format!("{users}[forced_relay]\nbinding = false\n")), [""; 0]);
    // Nobody is forced: nothing to tell.
    assert_eq!(warnings("[forced_relay]\nports = [8443]\n"), [""; 0]);
}

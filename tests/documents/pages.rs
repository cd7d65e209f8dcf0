//! Who runs the commands of each page, and what they must achieve.

/// A page with commands.
pub(crate) struct Page {
    /// Path from the root of the project.
    pub(crate) path: &'static str,
    /// Whether the reader has installed the service before.
    pub(crate) installed: bool,
    /// Placeholders of the page, and what the reader puts in their place.
    pub(crate) placeholders: &'static [(&'static str, &'static str)],
    pub(crate) blocks: &'static [Expected],
}

/// A block of commands.
pub(crate) struct Expected {
    /// The beginning of its first line that is not a comment.
    pub(crate) begin: &'static str,
    pub(crate) then: Then,
}

/// What the test does with the block.
pub(crate) enum Then {
    Run {
        user: &'static str,
        /// It installs the service: a part of [`INSTALLATION`] that runs before the pages that need
        /// it.
        installs: bool,
        /// What the page's text tells the reader to do before.
        before: &'static str,
        /// Fails unless the block did what the page says. `/tmp/out` contains its output.
        check: &'static str,
    },
    /// Why it does not run here, and what tests it instead.
    NotRun(&'static str),
}

const fn run(begin: &'static str, user: &'static str, before: &'static str, check: &'static str) -> Expected {
    let then = Then::Run {
        user,
        installs: false,
        before,
        check,
    };
    Expected { begin, then }
}

const fn installs(begin: &'static str, before: &'static str, check: &'static str) -> Expected {
    let then = Then::Run {
        user: "root",
        installs: true,
        before,
        check,
    };
    Expected { begin, then }
}

const fn not_run(begin: &'static str, reason: &'static str) -> Expected {
    Expected {
        begin,
        then: Then::NotRun(reason),
    }
}

const fn page(path: &'static str, installed: bool, blocks: &'static [Expected]) -> Page {
    Page {
        path,
        installed,
        placeholders: &[],
        blocks,
    }
}

/// The page whose commands install the service. Afterwards it runs with the configuration of
/// README.md.
pub(crate) const INSTALLATION: &str = "docs/operations.md";

/// The service is installed and running.
const INSTALLED: bool = true;
/// The service is not installed.
const BARE: bool = false;

/// The page's `$KEY`, which the application gets from the operator.
const KEY: &str = "export KEY=$(cat /etc/relay/api-key)";

/// An `RTCConfiguration` with URIs and a credential.
const ICE_SERVERS: &str = r#"jq -se 'all(.iceServers[0] | (.urls | length > 0) and (.username | test("^[0-9]{10}:")) and (.credential | length == 28))' /tmp/out"#;

/// The answer of the TURN REST draft.
const REST: &str = r#"jq -se 'all((.uris | length > 0) and (.username | test("^[0-9]{10}:")) and (.password | length == 28) and .ttl > 0)' /tmp/out"#;

pub(crate) const PAGES: &[Page] = &[
    page(
        "README.md",
        INSTALLED,
        &[
            not_run("cargo run --release", "builds for minutes: tests/fresh-root, by hand"),
            not_run("tests/run", "this test is a part of it"),
            run("curl -X POST", "nobody", KEY, ICE_SERVERS),
        ],
    ),
    page(
        "docs/operations.md",
        BARE,
        &[
            installs(
                "install -m 755 target/release/relay",
                "",
                "test -x /usr/local/bin/relay",
            ),
            installs("head -c 33", CONFIGURE, ""),
            installs("relay check --config", "", SERVES),
            run("[Service]", "root", LETS_ENCRYPT, CREDENTIALS),
            run(
                "table inet relay",
                "root",
                "",
                "nft list ruleset | grep -q 'udp dport 443 accept'; nft flush ruleset",
            ),
            run("sum(rate(relay_traffic_bytes_total", "root", "", ""),
            run("- alert: RelayDown", "root", "", "grep -q 'SUCCESS: 7 rules' /tmp/out"),
            run("options=(", "root", BENCH, BENCHED),
        ],
    ),
    page(
        "docs/configuration.md",
        INSTALLED,
        &[run(
            "RELAY__REALM=",
            "root",
            "printf 'set -a\\n' >/tmp/env",
            "(set -a; . /tmp/docs-configuration.md:*; relay check | grep -q '^ports = \"50000-59999\"')",
        )],
    ),
    page(
        "docs/credentials.md",
        INSTALLED,
        &[
            run(
                "secret=north",
                "nobody",
                "",
                "grep -qF \"$(cat /tmp/out)\" docs/credentials.md",
            ),
            run(
                "relay credentials mint",
                "root",
                "",
                "jq -e '.iceServers[0].credential' /tmp/out",
            ),
            run("head -c 33", "root", "", TAKEN_UP),
        ],
    ),
    page(
        "docs/api.md",
        INSTALLED,
        &[
            run("head -c 33", "root", "", TAKEN_UP),
            run(
                "curl -X POST https://turn.example.org/v1/ice-servers",
                "nobody",
                KEY,
                ICE_SERVERS,
            ),
            run("curl \"https://turn.example.org/turn?", "nobody", KEY, REST),
            run("curl \"https://turn.example.org/ice?", "nobody", KEY, ICE_SERVERS),
            run(
                "curl -X POST https://turn.example.org/v1/turn/keys/app",
                "nobody",
                KEY,
                ICE_SERVERS,
            ),
        ],
    ),
    Page {
        path: "docs/recipes/elixir-webrtc.md",
        installed: INSTALLED,
        placeholders: &[("KEY", "$KEY")],
        blocks: &[run("curl", "nobody", KEY, REST)],
    },
    Page {
        path: "docs/recipes/stunner.md",
        installed: INSTALLED,
        placeholders: &[("KEY", "$KEY")],
        blocks: &[run("curl", "nobody", KEY, ICE_SERVERS)],
    },
    Page {
        path: "docs/recipes/cloudflare.md",
        installed: INSTALLED,
        placeholders: &[("KEY", "$KEY")],
        blocks: &[run("curl", "nobody", KEY, ICE_SERVERS)],
    },
    page(
        "docs/recipes/jitsi.md",
        BARE,
        &[not_run(
            "TURN_CREDENTIALS=",
            "a file of docker-jitsi-meet: read by tests/blackbox/recipes_minting.rs",
        )],
    ),
    page(
        "docs/testing.md",
        BARE,
        &[
            not_run(
                "sudo tests/install-packages",
                "tests/run does all of it but the last lines, which are variants",
            ),
            not_run(
                "cargo test --test sim",
                "tests/run runs the first line; the others are its long form",
            ),
            not_run(
                "tests/mutants --sample 30",
                "by hand: hours; `tests/run --long` runs the first line",
            ),
            not_run(
                "cargo test --test chaos",
                "tests/run runs the first line; the others are its long form",
            ),
        ],
    ),
    page(
        "docs/conformance.md",
        BARE,
        &[not_run(
            "RELAY_BLACKBOX_SERVER=coturn",
            "by hand: prints a table of another server",
        )],
    ),
    page(
        "docs/performance.md",
        BARE,
        &[not_run(
            "benches/run --runs 1",
            "half an hour; tests/side_by_side.rs runs a part of it",
        )],
    ),
];

/// What the text of "Measure it" says: the peer is on this machine, and all clients have one
/// address.
const BENCHED: &str = r#"
test "$(grep -c '^mode ' /tmp/out)" = 8
test "$(grep -cE '^(received|handshakes|rss_bytes_per_allocation) +[1-9]' /tmp/out)" = 8
"#;

const BENCH: &str = r#"
sed -i 's|^allow = \[|&"127.0.0.1/32", |' /etc/relay/relay.toml
printf '[limits]\nallocations_per_ip = 2000\nallocations_per_user = 2000\nchallenges_per_second = 10000\n' >>/etc/relay/relay.toml
reload
"#;

/// What the guide's text says between its commands: the configuration of README.md, and a
/// certificate.
const CONFIGURE: &str = r#"
awk '/^realm = "turn.example.org"/ { on = 1 } /^```/ { on = 0 } on' README.md >/etc/relay/relay.toml
cp /root/fullchain.pem /root/privkey.pem .
"#;

/// The service runs as its user, and answers on 443.
const SERVES: &str = r#"
test "$(stat -c %U /proc/$(cat /run/relay.pid))" = relay
test "$(curl https://turn.example.org/healthz -o /dev/null -w '%{http_code}')" = 200
"#;

/// Files of an ACME client, and secrets, that only root can read.
const LETS_ENCRYPT: &str = r#"
install -d -m 700 /etc/letsencrypt/live/turn.example.org
install -m 600 /root/fullchain.pem /root/privkey.pem /etc/letsencrypt/live/turn.example.org/
chown root:root /etc/relay/{secret,api-key} && chmod 600 /etc/relay/{secret,api-key}
"#;

/// The service mints and serves with the credentials from systemd, configured as in the next block.
const CREDENTIALS: &str = r#"
{ echo 'realm = "turn.example.org"'; awk '/^secret_file = "credential:secret"/ { on = 1; print "[credentials]" } /^```/ { on = 0 } on'   docs/operations.md; } >/etc/relay/relay.toml
systemctl restart relay
curl -X POST https://turn.example.org/v1/ice-servers -H "Authorization: Bearer $(cat /etc/relay/api-key)" >/tmp/out
jq -e '.iceServers[0].credential' /tmp/out
rm -r /etc/systemd/system/relay.service.d
chgrp relay /etc/relay/{secret,api-key} && chmod 640 /etc/relay/{secret,api-key}
awk '/^realm = "turn.example.org"/ { on = 1 } /^```/ { on = 0 } on' README.md >/etc/relay/relay.toml
systemctl restart relay
"#;

/// What the text says about the command that creates a key or secret: its file's permissions, and
/// that a reload uses it.
const TAKEN_UP: &str = r#"
test "$(stat -c '%a %U %G' "$(ls -t /etc/relay/{secret,api-key} | head -1)")" = '640 root relay'
reload
"#;

//! Origins as browsers and web views send them (RFC 6454 §6.2, Fetch): scheme, host, and a port that is not the scheme's own.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::RawApi;
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::value::is_host_name;

/// What is wrong with an origin, and what to write.
type Wrong = (String, String);

pub(super) fn check(api: &RawApi, d: &mut Diagnostics) {
    for origin in &api.cors_origins.value {
        if let Err((wrong, help)) = judge(&origin.value) {
            let diagnostic = Diagnostic::error(format!("`api.cors_origins`: {wrong}"));
            d.push(diagnostic.at(origin.place).help(help));
        }
    }
    if api.open.value && !api.cors_origins.value.is_empty() {
        let diagnostic =
            Diagnostic::warning("`api.cors_origins` has no effect: with `api.open` every web page may ask");
        d.push(
            diagnostic
                .at(api.cors_origins.place)
                .help("remove the list, or set `open = false` and give the pages' server a key"),
        );
    }
}

fn judge(text: &str) -> Result<(), Wrong> {
    match text {
        "*" => {
            return Err((
                "\"*\" would let every web page mint".into(),
                "list the exact origins: \"https://app.example.org\"".into(),
            ));
        }
        "null" => {
            return Err((
                "\"null\" is what any web page can send, out of a sandboxed frame".into(),
                "serve the page over https, or from a scheme of its application: \"capacitor://localhost\"".into(),
            ));
        }
        // Android's web views send this one for pages out of files.
        "file://" => return Ok(()),
        _ => {}
    }
    let parts = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme));
    let (scheme, rest) = parts.ok_or_else(|| no_origin(text))?;
    if let Some((host, _)) = rest.split_once(['/', '?', '#']) {
        return Err(match authority(scheme, host) {
            Some(_) => (
                format!("{text:?} has a path; an origin has none"),
                format!("write \"{scheme}://{host}\""),
            ),
            None => no_origin(text),
        });
    }
    if text.contains(char::is_uppercase) || !text.is_ascii() || text.contains(char::is_whitespace) {
        return Err((
            format!("no browser sends {text:?}"),
            format!(
                "browsers write origins in small ASCII letters: {:?}",
                text.to_lowercase()
            ),
        ));
    }
    if rest.contains('*') {
        return Err((
            format!("{text:?} holds a wildcard, and origins are compared byte for byte"),
            "list each origin: \"https://app.example.org\"".into(),
        ));
    }
    let sent = authority(scheme, rest).ok_or_else(|| no_origin(text))?;
    if sent == rest {
        return Ok(());
    }
    Err((
        format!("no browser sends {text:?}"),
        format!("browsers write this origin as \"{scheme}://{sent}\""),
    ))
}

fn no_origin(text: &str) -> Wrong {
    (
        format!("{text:?} is not an origin"),
        "write scheme and host: \"https://app.example.org\"".into(),
    )
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// `host[:port]` as browsers write it. `None`: it is none.
fn authority(scheme: &str, text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let web = ["http", "https"].contains(&scheme);
    let sent_host = if let Some(inner) = host.strip_prefix('[') {
        format!("[{}]", inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?)
    } else {
        // Applications give their own schemes hosts as they like: `app://.`, `chrome-extension://` and an id.
        let own = !web && !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        let good = own || is_host_name(host) || host.parse::<Ipv4Addr>().is_ok();
        good.then(|| host.to_owned())?
    };
    let Some(port) = port else { return Some(sent_host) };
    match (scheme, port.parse().ok()?) {
        (_, 0_u16) => None,
        ("http", 80) | ("https", 443) => Some(sent_host),
        (_, port) => Some(format!("{sent_host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn whatever_a_browser_or_a_web_view_sends_as_its_origin_may_be_listed() {
        for good in [
            "https://app.example.org",
            "http://localhost",
            "https://localhost:8443",
            "http://192.0.2.1:8080",
            "https://[2001:db8::1]",
            "https://[2001:db8::1]:8443",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "https://tauri.localhost",
            "app://localhost",
            "app://obsidian.md",
            "app://.",
            "com.example.app://index",
            "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
            "moz-extension://0b8ba1b2-7c0e-4f0e-9c43-1d2f0a1b2c3d",
            "vscode-webview://1ab2",
            "file://",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_none_sends_is_refused_with_what_to_write_instead() {
        for (bad, help) in [
            ("*", "list the exact origins"),
            ("null", "serve the page over https"),
            ("https://*.example.org", "list each origin"),
            ("capacitor://localhost/", "write \"capacitor://localhost\""),
            ("tauri://localhost/index.html", "write \"tauri://localhost\""),
            (
                "Capacitor://localhost",
                "small ASCII letters: \"capacitor://localhost\"",
            ),
            ("https://app.example.org:443", "as \"https://app.example.org\""),
            ("http://app.example.org:080", "as \"http://app.example.org\""),
            ("https://[2001:db8:0::1]", "as \"https://[2001:db8::1]\""),
            ("app.example.org", "scheme and host"),
            ("localhost:8080", "scheme and host"),
            ("capacitor:localhost", "scheme and host"),
            ("https://", "scheme and host"),
            ("app://", "scheme and host"),
            ("file:///", "scheme and host"),
            ("https://user@app.example.org", "scheme and host"),
            ("https://a,https://b", "scheme and host"),
            ("https://app.example.org:", "scheme and host"),
            ("https://app.example.org:0", "scheme and host"),
            ("https://app.example.org:65536", "scheme and host"),
            ("://localhost", "scheme and host"),
            ("1app://localhost", "scheme and host"),
            ("", "scheme and host"),
        ] {
            let (wrong, told) = judge(bad).expect_err(bad);
            assert!(told.contains(help) || wrong.contains(help), "{bad}: {wrong}: {told}");
        }
    }
}

//! The page at `/` for visitors of this server's address. It has no script, no external content and
//! no secret.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::config::settings::ApiSettings;

const STYLE: &str = "body{max-width:40em;margin:3em auto;padding:0 1em;font:1rem/1.5 system-ui,sans-serif}\
    pre{padding:1em;overflow:auto;background:#8882}:root{color-scheme:light dark}";

/// Allows this one style and nothing else, and no frame around the page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("ASCII, as all of it is written here")
});

/// The response to a request with these headers.
pub(super) fn answer(request: &HeaderMap, settings: &ApiSettings) -> Response {
    let credentials = if settings.open && settings.enabled {
        let host = host(request).unwrap_or(&settings.host);
        format!(
            "<h2>Try it</h2>\n<p>This server requires no key. In a page, or in the browser's console:</p>\n\
             <pre>const answer = await fetch(\"https://{host}/v1/ice-servers\");\n\
             const connection = new RTCPeerConnection(await answer.json());</pre>\n\
             <p>In a shell:</p>\n<pre>curl https://{host}/v1/ice-servers</pre>\n"
        )
    } else if settings.enabled {
        "<p>An application that has a key gets credentials from <code>/v1/ice-servers</code>. Keys come from the operator \
         of this server.</p>\n"
            .to_owned()
    } else {
        "<p>Credentials come from the operator of this server.</p>\n".to_owned()
    };
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>A TURN server</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>This is a TURN server</h1>\n\
         <p>It relays the sound, pictures and data of WebRTC calls between people whose networks do not let them connect \
         directly (TURN, RFC 8656), and tells clients their address (STUN, RFC 8489). Applications use it; there is \
         nothing else to see here.</p>\n{credentials}\
         <p>The server is called relay. Its documentation is the folder <code>docs</code> of its source: \
         <code>api.md</code> for applications, <code>operations.md</code> for operators.</p>\n</body>\n</html>\n"
    );
    ([(header::CONTENT_SECURITY_POLICY, POLICY.clone())], Html(page)).into_response()
}

/// The host that the visitor typed. It goes into the page, so only a host that needs no escaping is
/// used.
fn host(request: &HeaderMap) -> Option<&str> {
    let host = request.get(header::HOST)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    (!host.is_empty() && host.len() <= 261 && host.bytes().all(plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_could_change_the_page_is_not_shown() {
        let named = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(text))]);
            host(&headers).map(ToOwned::to_owned)
        };
        for good in ["turn.example.org", "turn.example.org:8443", "[2001:db8::1]:443"] {
            assert_eq!(named(good).as_deref(), Some(good));
        }
        for bad in ["", "a\"</pre><script>", "a b", "a&b", "a/b", "a;b"] {
            assert_eq!(named(bad), None, "{bad:?}");
        }
        assert_eq!(host(&HeaderMap::new()), None);
    }
}

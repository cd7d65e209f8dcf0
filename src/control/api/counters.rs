//! Counts responses of the API. Labels come from closed sets.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::http::{Method, StatusCode};

/// The requested part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiRoute {
    /// The TURN REST draft's format.
    Turn,
    /// The `RTCConfiguration` format.
    IceServers,
    /// STUNner's format.
    Ice,
    /// Cloudflare's format.
    GenerateIceServers,
    /// The page at `/`.
    Page,
    /// Liveness, for load balancers.
    Healthz,
    /// Anything else.
    Other,
}

impl ApiRoute {
    /// Every route, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::Turn,
        Self::IceServers,
        Self::Ice,
        Self::GenerateIceServers,
        Self::Page,
        Self::Healthz,
        Self::Other,
    ];

    /// The route of a request.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        match path {
            "/" if [Method::GET, Method::HEAD].contains(method) => Self::Page,
            "/turn" | "/" => Self::Turn,
            "/v1/ice-servers" => Self::IceServers,
            "/ice" => Self::Ice,
            "/healthz" => Self::Healthz,
            _ if path.starts_with("/v1/turn/keys/") => Self::GenerateIceServers,
            _ => Self::Other,
        }
    }

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::IceServers => "ice_servers",
            Self::Ice => "ice",
            Self::GenerateIceServers => "generate_ice_servers",
            Self::Page => "page",
            Self::Healthz => "healthz",
            Self::Other => "other",
        }
    }
}

/// Every status code the API answers with.
pub const CODES: [u16; 13] = [200, 201, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 503];

/// Responses by route and status code.
#[derive(Debug, Default)]
pub struct ApiCounters([[AtomicU64; CODES.len()]; ApiRoute::ALL.len()]);

impl ApiCounters {
    /// Counts one response. A code outside [`CODES`] is a bug and is not counted.
    pub(super) fn count(&self, route: ApiRoute, status: StatusCode) {
        debug_assert!(CODES.contains(&status.as_u16()), "{status} is missing in CODES");
        if let Some(i) = CODES.iter().position(|&code| code == status.as_u16()) {
            self.0[route as usize][i].fetch_add(1, Relaxed);
        }
    }

    /// Responses of `route` with the `index`-th of [`CODES`].
    pub fn responses(&self, route: ApiRoute, index: usize) -> u64 {
        self.0[route as usize][index].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_root_is_the_page_or_a_credential() {
        for (method, path, route) in [
            (Method::GET, "/", ApiRoute::Page),
            (Method::HEAD, "/", ApiRoute::Page),
            (Method::POST, "/", ApiRoute::Turn),
            (Method::GET, "/turn", ApiRoute::Turn),
            (
                Method::POST,
                "/v1/turn/keys/app/credentials/generate-ice-servers",
                ApiRoute::GenerateIceServers,
            ),
            (Method::GET, "/elsewhere", ApiRoute::Other),
        ] {
            assert_eq!(ApiRoute::of(&method, path), route, "{method} {path}");
        }
    }
}

//! The credentials API: hands out time-limited credentials over HTTP.
//!
//! It has several formats: the TURN REST draft (`GET`/`POST /turn?service=turn…`, also `POST /`),
//! and `GET`/`POST /v1/ice-servers`, whose response goes straight into `new RTCPeerConnection()`;
//! for applications that migrate, also the formats of STUNner (`/ice?service=turn…`) and Cloudflare
//! (`POST /v1/turn/keys/NAME/credentials/generate-ice-servers`). Errors, limits and examples:
//! `docs/api.md`. It keeps no state but rate limits: a credential derives from the secret and the
//! clock alone, so every server with that secret accepts it.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::{Bytes, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;

use self::access::{Grant, Keys};
use self::counters::{ApiCounters, ApiRoute};
use self::limit::PerAddress;
use self::reply::{ApiError, Minted};
pub use self::reply::{RtcConfiguration, turn_uris};
use super::health::Health;
use crate::base::time::UnixTime;
use crate::config::settings::ApiSettings;
use crate::net::clock::Clock;
use crate::turn::login::credential::{Credentials, MintError};

mod access;
mod cors;
pub mod counters;
mod guard;
mod limit;
mod page;
mod reply;
mod request;

/// Longest request body.
const MAX_BODY: usize = 8 * 1024;
/// A body must arrive completely within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Length in bytes of an opaque userid; random, so none repeats.
const OPAQUE_ID_BYTES: usize = 16;

/// The credentials API. Clones share everything.
#[derive(Clone)]
pub struct Api {
    policy: Arc<ArcSwap<Policy>>,
    counters: Arc<ApiCounters>,
    clock: fn() -> UnixTime,
}

/// One configuration of the API; a reload replaces it.
struct Policy {
    settings: ApiSettings,
    credentials: Arc<Credentials>,
    keys: Keys,
    per_address: PerAddress,
}

impl Policy {
    fn new(settings: ApiSettings, credentials: Arc<Credentials>) -> Self {
        let per_address = PerAddress::new(settings.mints_per_minute_per_ip, settings.mints_per_minute_per_network);
        Self {
            keys: Keys::new(&settings),
            per_address,
            settings,
            credentials,
        }
    }
}

/// How the client reached this router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear: the admin listener.
    Http,
    /// Behind TLS: the front door.
    Https,
}

impl Api {
    /// Starts with one configuration. `clock` gives the wall-clock time of each mint.
    pub fn new(settings: ApiSettings, credentials: Arc<Credentials>, clock: fn() -> UnixTime) -> Self {
        let policy = Arc::new(ArcSwap::from_pointee(Policy::new(settings, credentials)));
        Self {
            policy,
            counters: Arc::new(ApiCounters::default()),
            clock,
        }
    }

    /// Replaces the configuration. Requests under way finish with their old one; rate limits start
    /// afresh.
    pub fn set_config(&self, settings: ApiSettings, credentials: Arc<Credentials>) {
        self.policy.store(Arc::new(Policy::new(settings, credentials)));
    }

    /// Its counters.
    pub fn counters(&self) -> Arc<ApiCounters> {
        Arc::clone(&self.counters)
    }

    /// The API's own routes, to be merged into another router.
    pub fn routes(&self, scheme: Scheme) -> Router {
        self.dressed(scheme, paths().route("/", post(draft)))
    }

    /// Everything the front door answers over HTTPS. `rest` is the web server, if there is one: it
    /// gets every path that is not the API's in any notation, and on `/` every method but POST. No
    /// key of the API reaches it. Without it the front door serves a page, and `/healthz` to load
    /// balancers.
    pub fn front_door(&self, health: Arc<Health>, rest: Option<Router>) -> Router {
        let scheme = Scheme::Https;
        let enabled = self.policy.load().settings.enabled;
        let Some(rest) = rest else {
            let (paths, root) = if enabled {
                (paths(), get(page).post(draft))
            } else {
                (Router::new(), get(page))
            };
            let healthz = get(async move || alive(&health));
            let own = self.dressed(scheme, paths.route("/", root).route("/healthz", healthz));
            let not_found = Router::new().fallback(async || ApiError::NotFound);
            return own.merge(self.dressed(scheme, not_found));
        };
        let rest = rest.layer(middleware::from_fn_with_state(self.clone(), guard::guard));
        if !enabled {
            return rest;
        }
        let root = post(draft)
            .layer(middleware::from_fn_with_state((self.clone(), scheme), finish_response))
            .with_state(self.clone())
            .fallback_service(rest.clone());
        let rest = Router::new().route("/", root).fallback_service(rest);
        self.dressed(scheme, paths()).merge(rest)
    }

    fn dressed(&self, scheme: Scheme, router: Router<Self>) -> Router {
        router
            .method_not_allowed_fallback(async || ApiError::Method)
            .layer(middleware::from_fn_with_state((self.clone(), scheme), finish_response))
            .with_state(self.clone())
    }

    /// `forced`: the caller requests it; the key and the configuration may demand it as well.
    fn mint(
        &self,
        policy: &Policy,
        grant: Grant<'_>,
        ttl: Option<Duration>,
        userid: &str,
        forced: bool,
    ) -> Result<Minted, ApiError> {
        let forced = forced || grant.is_forced() || policy.settings.forced;
        if forced && policy.settings.forced_uris.is_empty() {
            return Err(ApiError::Unavailable("no listener serves forced relay"));
        }
        // Browsers reject an entry without URLs with an error that does not show the reason.
        if !forced && turn_uris(&policy.settings, false).is_empty() {
            return Err(ApiError::Unavailable("clients can reach none of the listeners"));
        }
        let mint = if forced {
            Credentials::mint_forced
        } else {
            Credentials::mint
        };
        let ttl = ttl.unwrap_or(policy.settings.default_ttl).min(policy.settings.max_ttl);
        let now = (self.clock)();
        let credential = mint(&policy.credentials, now, ttl, Some(userid)).map_err(|error| match error {
            MintError::NoSecret => ApiError::Unavailable("no shared secret is configured for minting"),
            MintError::Lifetime => ApiError::Unavailable("the configured lifetimes exceed the server's own limit"),
            MintError::Userid => ApiError::BadRequest("username cannot be a userid"),
        })?;
        let minted = Minted {
            credential,
            ttl,
            expiry: UnixTime(now.0.saturating_add(ttl.as_secs())),
            forced,
        };
        log_mint(grant, &minted);
        Ok(minted)
    }
}

/// The API's paths, except `/`.
fn paths() -> Router<Api> {
    Router::new()
        .route("/turn", get(draft).post(draft))
        .route("/v1/ice-servers", get(ice_servers_by_parameters).post(ice_servers))
        .route("/ice", get(stunner).post(stunner))
        .route(
            "/v1/turn/keys/{name}/credentials/generate-ice-servers",
            post(generate_ice_servers),
        )
}

/// `GET /`: the page for visitors.
async fn page(State(api): State<Api>, headers: HeaderMap) -> Response {
    page::answer(&headers, &api.policy.load().settings)
}

/// `GET /healthz`: liveness only. The details are for the admin listener.
fn alive(health: &Health) -> Response {
    let alive = health.liveness().alive;
    let status = if alive {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(serde_json::json!({ "alive": alive }))).into_response()
}

/// `GET`/`POST /turn?service=turn&username=&ttl=&key=` and `POST /?service=turn&username=`.
async fn draft(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let (minted, policy) = mint_for_parameters(&api, request, Service::Named).await?;
    Ok(minted.draft(&policy.settings))
}

/// `GET`/`POST /ice?service=turn&username=&ttl=&key=`: the draft's parameters; the response is an
/// `RTCConfiguration`. Other parameters (`namespace`, `gateway`, …) choose among gateways; this
/// server has one.
async fn stunner(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let (minted, policy) = mint_for_parameters(&api, request, Service::Named).await?;
    Ok(minted.stunner(&policy.settings))
}

/// `GET /v1/ice-servers?username=&ttl=`: the response of the POST, for callers that send no body.
async fn ice_servers_by_parameters(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let (minted, policy) = mint_for_parameters(&api, request, Service::Understood).await?;
    Ok(minted.ice_servers(&policy.settings))
}

/// Whether the parameters must name the service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    /// `service=turn` is required.
    Named,
    /// The path has only one.
    Understood,
}

async fn mint_for_parameters(api: &Api, request: Request, service: Service) -> Result<(Minted, Arc<Policy>), ApiError> {
    let policy = api.policy.load_full();
    policy.per_address.take(Clock::default().mono(), client_ip(&request))?;
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    if !body.is_empty() && !request::is_media_type(&parts.headers, "application/x-www-form-urlencoded") {
        return Err(ApiError::MediaType(
            "the body must be application/x-www-form-urlencoded",
        ));
    }
    let wish = request::RestDraftRequest::parse(parts.uri.query().unwrap_or_default(), &body)?;

    let bearer = request::bearer(&parts.headers)?;
    if bearer.is_none() && wish.form_key.is_none() && wish.query_key.is_some() && !policy.settings.query_key {
        return Err(ApiError::Unauthorized(
            "keys in the query string are switched off; send Authorization: Bearer KEY",
        ));
    }
    let presented = bearer.or(wish.form_key.as_deref().map(str::as_bytes)).or(wish
        .query_key
        .as_deref()
        .map(str::as_bytes)
        .filter(|_| policy.settings.query_key));
    let grant = policy.keys.grant(presented).ok_or(REFUSED)?;

    if service == Service::Named && wish.service.as_deref() != Some("turn") {
        return Err(ApiError::BadRequest("service=turn is required"));
    }
    let ttl = wish.ttl.as_deref().map(request::ttl).transpose()?;
    let forced = wish.forced.as_deref().map_or(Ok(false), request::forced)?;
    let userid = choose_userid(grant, wish.username)?;
    grant.take(Clock::default().mono())?;
    let minted = api.mint(&policy, grant, ttl, &userid, forced)?;
    Ok((minted, policy))
}

/// `POST /v1/ice-servers`.
async fn ice_servers(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let (minted, policy) = mint_for_json(&api, request, None).await?;
    Ok(minted.ice_servers(&policy.settings))
}

/// `POST /v1/turn/keys/NAME/credentials/generate-ice-servers`, NAME being that of the key.
async fn generate_ice_servers(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (minted, policy) = mint_for_json(&api, request, Some(&name)).await?;
    Ok((StatusCode::CREATED, minted.ice_servers(&policy.settings)).into_response())
}

/// Mints according to a JSON body, with the key of this name if the path names one.
async fn mint_for_json(api: &Api, request: Request, name: Option<&str>) -> Result<(Minted, Arc<Policy>), ApiError> {
    let policy = api.policy.load_full();
    policy.per_address.take(Clock::default().mono(), client_ip(&request))?;
    let (parts, body) = request.into_parts();
    let grant = policy.keys.grant(request::bearer(&parts.headers)?).ok_or(REFUSED)?;
    if name.is_some() && grant.key_name() != name {
        return Err(ApiError::Unauthorized(
            "the path names another key than the Authorization header has",
        ));
    }

    let body = read(body).await?;
    if !body.is_empty() && !request::is_media_type(&parts.headers, "application/json") {
        return Err(ApiError::MediaType("the body must be application/json"));
    }
    let wish = request::IceServersRequest::parse(&body)?;
    let userid = choose_userid(grant, wish.username)?;
    grant.take(Clock::default().mono())?;
    let minted = api.mint(&policy, grant, wish.ttl, &userid, wish.forced)?;
    Ok((minted, policy))
}

const REFUSED: ApiError = ApiError::Unauthorized("a valid key is required: Authorization: Bearer KEY");

/// The caller's userid if its key may choose one; else an opaque one, so that no caller can use up
/// another's quota.
fn choose_userid(grant: Grant<'_>, wished: Option<String>) -> Result<String, ApiError> {
    let wished = wished.map(request::userid).transpose()?.flatten();
    match wished.filter(|_| grant.may_choose_username()) {
        Some(userid) => Ok(userid),
        None => {
            let mut bytes = [0; OPAQUE_ID_BYTES];
            getrandom::fill(&mut bytes).map_err(|_| ApiError::Unavailable("the system returns no random numbers"))?;
            Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
        }
    }
}

fn log_mint(grant: Grant<'_>, minted: &Minted) {
    tracing::debug!(
        key = grant.key_name().unwrap_or("none"),
        username = minted.credential.username,
        ttl_secs = minted.ttl.as_secs(),
        "credential minted"
    );
}

/// The client's address as the listener saw it. Without one (every listener of this server sets it)
/// all clients share one budget.
fn client_ip(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(client)| client.ip())
}

async fn read(body: axum::body::Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Err(_) => Err(ApiError::TooSlow),
        Ok(Err(_)) => Err(ApiError::TooLarge),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

/// Adds security headers and CORS, and counts the response.
async fn finish_response(State((api, scheme)): State<(Api, Scheme)>, request: Request, next: Next) -> Response {
    let policy = api.policy.load_full();
    let route = ApiRoute::of(request.method(), request.uri().path());
    let readers = cors::Readers::of(request.headers(), &policy.settings);

    let mut response = if cors::is_preflight(&request) && route != ApiRoute::Other {
        match readers {
            cors::Readers::Nobody => ApiError::Origin.into_response(),
            _ => cors::preflight(),
        }
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    readers.mark(headers);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The page sets its own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if scheme == Scheme::Https {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    api.counters.count(route, response.status());
    response
}

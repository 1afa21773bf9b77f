//! Who may use the admin address: this machine's programs, or holders of its token; never a web page of a stranger.
//!
//! A browser sends a page's requests to loopback addresses too. The `Host` check stops names that a stranger points
//! here (DNS rebinding), the `Origin` and `Sec-Fetch-Site` checks stop requests of other sites' pages, and a write has
//! to be JSON, which no form of a page can send. Only the page's own files, which hold nothing of the node, are served
//! to everybody who comes to the right host. Whoever comes as a user gets to the routes of users and no others.

use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::{ApiCode, ApiError};
use super::login::{Asker, Logins};
use super::readers::Reader;

/// What a request needs.
#[derive(Clone)]
pub(super) struct Guard {
    /// Who has logged in, and with what one may.
    pub(super) logins: Arc<Logins>,
    /// What users get.
    pub(super) users: Router,
}

/// Sent with everything: nothing runs on the page that is not its own, nobody frames it, nothing is guessed.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    use axum::response::IntoResponse as _;
    let (method, path) = (request.method(), request.uri().path());
    let admitted = guard.admit(method, path, request.headers()).and_then(|()| check_write(&request));
    let asker = match admitted {
        Ok(()) => guard.asker(path, request.headers()).await,
        Err(error) => Err(error),
    };
    let mut response = match asker {
        Err(error) => error.into_response(),
        Ok(_) if is_login(request.uri().path()) => guard.logins.serve(request).await,
        Ok(Asker::User(reader)) => guard.serve_user(*reader, request).await,
        Ok(Asker::Admin) => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What needs no token: the page's own files, and the way to show one.
fn is_open(path: &str) -> bool {
    path == "/" || path.starts_with("/page/") || is_login(path)
}

fn is_login(path: &str) -> bool {
    matches!(path, "/login" | "/logout")
}

impl Guard {
    /// Who asks; of what is open to everybody it is not asked.
    async fn asker(&self, path: &str, headers: &HeaderMap) -> Result<Asker, ApiError> {
        if is_open(path) { Ok(Asker::Admin) } else { self.logins.who(headers).await }
    }

    async fn serve_user(&self, reader: Reader, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let mut request = Request::new(body);
        // What the routes for the admin have found out about the request does not count.
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (parts.method, parts.uri, parts.headers);
        request.extensions_mut().insert(reader);
        let Ok(response) = tower::ServiceExt::oneshot(self.users.clone(), request).await;
        response
    }

    /// Whether a request comes from where requests may come from.
    fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if !self.logins.needs_token() && !is_loopback_name(host) {
            return Err(ApiError::new(ApiCode::Forbidden, format!("host {host:?} is not this machine"))
                .with_hint("use 127.0.0.1 or localhost, or set admin_token_file"));
        }
        let stranger = |origin: &str| {
            ApiError::new(ApiCode::Forbidden, format!("requests of pages from {origin} are not taken"))
        };
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("somewhere");
            if origin.split_once("://").map(|(_, authority)| authority) != Some(host) {
                return Err(stranger(origin));
            }
        }
        let site = text(HeaderName::from_static("sec-fetch-site"));
        let reads_page = is_open(path) && *method == Method::GET;
        if matches!(site, Some("cross-site" | "same-site")) && !reads_page {
            return Err(stranger("other sites"));
        }
        Ok(())
    }
}

/// What a write may bring, by its own word.
const WRITTEN: [&str; 3] = ["application/json", "application/x-ndjson", "application/toml"];

/// What a write brings has to be JSON, or a topology, by its own word: a form of a page can't say so. What says nothing, and
/// does not come from a browser, is taken for it.
fn check_write(request: &Request) -> Result<(), ApiError> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || request.body().is_end_stream() {
        return Ok(());
    }
    let headers = request.headers();
    let of_a_page =
        ["origin", "referer", "cookie", "sec-fetch-site"].iter().any(|name| headers.contains_key(*name));
    if !of_a_page && !headers.contains_key(header::CONTENT_TYPE) {
        return Ok(());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if WRITTEN.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(ApiError::new(ApiCode::Usage, format!("content type {kind:?}: what is written here is JSON"))
        .with_hint("send `Content-Type: application/json` (or application/x-ndjson for lines)"))
}

/// Whether a `Host` header names this machine.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = |ip: std::net::IpAddr| ip.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn admits(token: Option<&str>, path: &str, headers: &[(HeaderName, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        let logins = Arc::new(Logins::new(token.map(Into::into), None).unwrap());
        let guard = Guard { logins, users: Router::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        guard.admit(&Method::GET, path, &map).is_ok() && runtime.block_on(guard.asker(path, &map)).is_ok()
    }

    #[test]
    fn without_a_token_only_names_of_this_machine_will_do() {
        for (host, admitted) in [
            ("127.0.0.1:7400", true),
            ("localhost:7400", true),
            ("localhost", true),
            ("[::1]:7400", true),
            ("evil.example:7400", false),
            ("localhost.evil.example:7400", false),
            ("192.0.2.1:7400", false),
            ("", false),
        ] {
            for path in ["/", "/v1/status", "/login"] {
                assert_eq!(admits(None, path, &[(header::HOST, host)]), admitted, "{host} {path}");
            }
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = (header::HOST, "127.0.0.1:7400");
        let site = |site| (HeaderName::from_static("sec-fetch-site"), site);
        assert!(admits(None, "/v1/status", &[host.clone(), (header::ORIGIN, "http://127.0.0.1:7400")]));
        assert!(admits(None, "/v1/status", &[host.clone(), site("same-origin")]));
        assert!(admits(None, "/", &[host.clone(), site("cross-site")]), "a link may lead to the page");
        for origin in ["http://evil.example", "null", "http://127.0.0.1:1", "http://é"] {
            assert!(!admits(None, "/v1/status", &[host.clone(), (header::ORIGIN, origin)]), "{origin}");
        }
        for from in ["cross-site", "same-site"] {
            assert!(!admits(None, "/v1/status", &[host.clone(), site(from)]), "{from}");
        }
    }

    #[test]
    fn with_a_token_any_host_will_do_and_only_that_token() {
        let host = (header::HOST, "hub.example");
        let bearer = |token| (header::AUTHORIZATION, token);
        assert!(admits(Some("t0ken"), "/v1/status", &[host.clone(), bearer("Bearer t0ken")]));
        assert!(!admits(Some("t0ken"), "/v1/status", &[host.clone(), bearer("Bearer t0keN")]));
        assert!(!admits(Some("t0ken"), "/v1/status", &[host.clone(), bearer("Bearer ")]));
        assert!(!admits(Some("t0ken"), "/metrics", std::slice::from_ref(&host)));
        assert!(admits(Some("t0ken"), "/page/app.js", &[host]));
    }

    #[test]
    fn a_write_with_a_body_says_that_it_is_json() {
        let write = |method: Method, kind: Option<&str>, body: &'static str| {
            let mut request = Request::builder().method(method).uri("/v1/x");
            if let Some(kind) = kind {
                request = request.header(header::CONTENT_TYPE, kind);
            }
            check_write(&request.body(Body::from(body)).unwrap()).is_ok()
        };
        assert!(write(Method::POST, Some("application/json; charset=utf-8"), "{}"));
        assert!(write(Method::POST, Some("application/x-ndjson"), "{}"));
        assert!(write(Method::POST, None, ""));
        assert!(write(Method::GET, None, ""));
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            assert!(!write(Method::POST, Some(kind), "{}"), "{kind}");
            assert!(!write(Method::DELETE, Some(kind), "{}"), "{kind}");
        }
        assert!(write(Method::PATCH, None, "{}"));
        for mark in ["origin", "referer", "cookie", "sec-fetch-site"] {
            let request = Request::builder().method(Method::PATCH).uri("/v1/x").header(mark, "x");
            assert!(check_write(&request.body(Body::from("{}")).unwrap()).is_err(), "{mark}");
        }
    }
}

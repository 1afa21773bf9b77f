//! Who may use the admin address: this machine's programs, or holders of its token; never a web page of a stranger.
//!
//! A browser sends a page's requests to loopback addresses too. The `Host` check stops names that a stranger points
//! here (DNS rebinding), the `Origin` check stops requests of other sites' pages.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::{ApiCode, ApiError};

/// What a request needs.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// The token to show, if one is needed.
    pub(super) token: Option<Arc<str>>,
}

pub(super) async fn check(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    guard.admit(request.headers())?;
    Ok(next.run(request).await)
}

impl Guard {
    fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if let Some(origin) = text(header::ORIGIN)
            && origin.split_once("://").map(|(_, authority)| authority) != Some(host)
        {
            return Err(ApiError::new(
                ApiCode::Forbidden,
                format!("requests of pages from {origin} are not taken"),
            ));
        }
        match &self.token {
            Some(token) => check_token(token, text(header::AUTHORIZATION)),
            None if is_loopback_name(host) => Ok(()),
            None => Err(ApiError::new(ApiCode::Forbidden, format!("host {host:?} is not this machine"))
                .with_hint("use 127.0.0.1 or localhost, or set admin_token_file")),
        }
    }
}

fn check_token(token: &str, authorization: Option<&str>) -> Result<(), ApiError> {
    let shown = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(shown.as_bytes(), token.as_bytes());
    same.map_err(|_| {
        ApiError::new(ApiCode::Unauthenticated, "a token is needed here")
            .with_hint("send `Authorization: Bearer TOKEN` with the content of admin_token_file")
    })
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

    fn admits(token: Option<&str>, headers: &[(header::HeaderName, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        Guard { token: token.map(Arc::from) }.admit(&map).is_ok()
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
            assert_eq!(admits(None, &[(header::HOST, host)]), admitted, "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = (header::HOST, "127.0.0.1:7400");
        assert!(admits(None, &[host.clone(), (header::ORIGIN, "http://127.0.0.1:7400")]));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
            assert!(!admits(None, &[host.clone(), (header::ORIGIN, origin)]), "{origin}");
        }
    }

    #[test]
    fn with_a_token_any_host_will_do_and_only_that_token() {
        let host = (header::HOST, "hub.example");
        assert!(admits(Some("t0ken"), &[host.clone(), (header::AUTHORIZATION, "Bearer t0ken")]));
        assert!(!admits(Some("t0ken"), &[host.clone(), (header::AUTHORIZATION, "Bearer t0keN")]));
        assert!(!admits(Some("t0ken"), &[host]));
    }
}

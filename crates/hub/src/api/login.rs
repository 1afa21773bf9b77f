//! Who asks: whoever shows the admin token may do everything, whoever shows the token of a user sees what that user may
//! read. A token is shown with every request, or once in the page's login form for a cookie.
//!
//! The admin's cookie holds the time when it is over and a keyed hash of that; a user's cookie holds the token, sealed.
//! The keys are drawn when the node starts. So cookies need no memory, say nothing, and are worth nothing after a restart
//! or on another node. Invariant: a credential that is not good is never worth as much as none.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::blocking;
use super::error::{ApiCode, ApiError};
use super::readers::Reader;
use crate::auth::Authenticator;
use crate::sessions::now_ms;

const COOKIE: &str = "blazedb_admin";
const USER_COOKIE: &str = "blazedb_user";
/// How long a login lasts, in seconds.
const LASTS_S: u64 = 12 * 3_600;
/// What a login form may send, in bytes.
const MAX_FORM: usize = 16 << 10;
/// The longest token of a user that a cookie has room for, in bytes: browsers take 4,096 with all that goes with it.
const MAX_COOKIE_TOKEN: usize = 2_900;
/// The pause before a wrong token is answered.
const WRONG: Duration = Duration::from_millis(500);

/// Who asks.
pub(super) enum Asker {
    /// Somebody who may do everything.
    Admin,
    /// A user.
    User(Box<Reader>),
}

/// The tokens that count, and what logins are signed and sealed with.
pub(super) struct Logins {
    /// The admin token; without one whoever reaches the address is the admin.
    token: Option<Arc<str>>,
    /// Who users are; without it there are none.
    auth: Option<Arc<Authenticator>>,
    key: hmac::Key,
    seal: RandomizedNonceKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    token: String,
}

impl Logins {
    /// With this admin token and these users; `None` if the system has no random numbers.
    pub(super) fn new(token: Option<Arc<str>>, auth: Option<Arc<Authenticator>>) -> Option<Self> {
        let mut keys = [[0; 32]; 2];
        keys.iter_mut().try_for_each(|key| aws_lc_rs::rand::fill(key)).ok()?;
        let [sign, seal] = keys;
        let seal = RandomizedNonceKey::new(&AES_256_GCM, &seal).ok()?;
        Some(Self { token, auth, key: hmac::Key::new(hmac::HMAC_SHA256, &sign), seal })
    }

    /// Whether whoever shows nothing gets nothing.
    pub(super) const fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// Who shows these headers.
    pub(super) async fn who(&self, headers: &HeaderMap) -> Result<Asker, ApiError> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(shown) = authorization.and_then(|value| value.strip_prefix("Bearer ")) {
            return if self.is_token(shown) { Ok(Asker::Admin) } else { self.user(shown).await };
        }
        if cookies(headers, COOKIE).any(|cookie| self.is_login(cookie, now_ms() / 1_000)) {
            return Ok(Asker::Admin);
        }
        if let Some(cookie) = cookies(headers, USER_COOKIE).next() {
            let token = self.opened(cookie).ok_or_else(|| needed("this login is over"))?;
            return self.user(&token).await;
        }
        if self.needs_token() { Err(needed("a token is needed here")) } else { Ok(Asker::Admin) }
    }

    async fn user(&self, token: &str) -> Result<Asker, ApiError> {
        let auth = self.auth.clone().filter(|_| token.matches('.').count() == 2);
        let (auth, token) = (auth.ok_or_else(|| needed("that is not the token"))?, token.to_owned());
        let reader = blocking(move || Ok(Reader::new(&auth, &token))).await?;
        reader.map(|reader| Asker::User(Box::new(reader))).map_err(|refusal| {
            let hint =
                "log in with a token that is good and not bound to a node: `blazedb token issue --user NAME`";
            ApiError::new(ApiCode::Unauthenticated, refusal.to_string()).with_hint(hint)
        })
    }

    fn is_token(&self, shown: &str) -> bool {
        let same =
            |token: &Arc<str>| constant_time::verify_slices_are_equal(shown.as_bytes(), token.as_bytes());
        self.token.as_ref().is_some_and(|token| same(token).is_ok())
    }

    fn login(&self, now_s: u64) -> String {
        let over = now_s.saturating_add(LASTS_S).to_string();
        let tag = hmac::sign(&self.key, over.as_bytes());
        let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{over}.{tag}")
    }

    fn is_login(&self, cookie: &str, now_s: u64) -> bool {
        let Some((over, tag)) = cookie.split_once('.') else { return false };
        let Some(tag) = from_hex(tag) else { return false };
        let signed = hmac::verify(&self.key, over.as_bytes(), &tag).is_ok();
        signed && over.parse::<u64>().is_ok_and(|over| now_s < over)
    }

    /// A user's token, sealed.
    fn sealed(&self, token: &str) -> Option<String> {
        let mut text = token.as_bytes().to_vec();
        let nonce = self.seal.seal_in_place_append_tag(Aad::from(USER_COOKIE), &mut text).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce.as_ref()[..], &text].concat()))
    }

    fn opened(&self, cookie: &str) -> Option<String> {
        let mut bytes = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.seal.open_in_place(nonce, Aad::from(USER_COOKIE), text).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }

    /// `POST /login` with `{"token"}`, and `POST /logout`.
    pub(super) async fn serve(&self, request: Request) -> Response {
        if request.method() != Method::POST {
            let error = ApiError::new(ApiCode::Usage, "log in and out with POST");
            return (StatusCode::METHOD_NOT_ALLOWED, axum::Json(error.to_json())).into_response();
        }
        // Who is another one now is no longer the one before.
        let before = [COOKIE, USER_COOKIE].map(|name| cookies(request.headers(), name).next().is_some());
        let forget = |name| before.contains(&true).then_some((name, "", 0));
        if request.uri().path() == "/logout" {
            return with_cookies([Some((COOKIE, "", 0)), Some((USER_COOKIE, "", 0))]);
        }
        let body = axum::body::to_bytes(request.into_body(), MAX_FORM).await.unwrap_or_default();
        let form = serde_json::from_slice::<Form>(&body);
        let token = form.map(|form| form.token.trim().to_owned()).unwrap_or_default();
        if self.is_token(&token) {
            let login = self.login(now_ms() / 1_000);
            return with_cookies([Some((COOKIE, &login, LASTS_S)), forget(USER_COOKIE)]);
        }
        match self.log_in_user(&token).await {
            Ok((cookie, lasts_s)) => with_cookies([Some((USER_COOKIE, &cookie, lasts_s)), forget(COOKIE)]),
            Err(error) => {
                tokio::time::sleep(WRONG).await;
                error.into_response()
            }
        }
    }

    /// The cookie of a user with this token, and for how many seconds it lasts.
    async fn log_in_user(&self, token: &str) -> Result<(String, u64), ApiError> {
        let Asker::User(reader) = self.user(token).await? else {
            return Err(needed("that is not the token"));
        };
        if token.len() > MAX_COOKIE_TOKEN {
            let text = format!("the token has {} bytes: a browser takes {MAX_COOKIE_TOKEN}", token.len());
            return Err(
                ApiError::new(ApiCode::Invalid, text).with_hint("send it as `Authorization: Bearer TOKEN`")
            );
        }
        let sealed = self.sealed(token);
        let cookie = sealed.ok_or_else(|| ApiError::new(ApiCode::Failed, "the login can't be sealed"))?;
        Ok((cookie, reader.expires().saturating_sub(now_ms() / 1_000).min(LASTS_S)))
    }
}

/// An answer without content that sets these cookies: name, content, for how many seconds.
fn with_cookies(cookies: [Option<(&str, &str, u64)>; 2]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, content, lasts_s) in cookies.into_iter().flatten() {
        let cookie = format!("{name}={content}; Max-Age={lasts_s}; Path=/; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

fn needed(message: &str) -> ApiError {
    ApiError::new(ApiCode::Unauthenticated, message).with_hint(
        "send `Authorization: Bearer TOKEN` with the content of admin_token_file or a user's token, or log in on the page",
    )
}

fn cookies<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).filter_map(move |cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == wanted).then_some(value)
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (text.len() == 64).then(|| digits.map(byte).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins() -> Logins {
        Logins::new(Some("t0ken".into()), None).unwrap()
    }

    #[test]
    fn a_login_is_good_here_and_until_it_is_over() {
        let logins = logins();
        let login = logins.login(1_000);
        assert!(logins.is_login(&login, 1_000) && logins.is_login(&login, 1_000 + LASTS_S - 1));
        assert!(!logins.is_login(&login, 1_000 + LASTS_S));
        assert!(!self::tests::logins().is_login(&login, 1_000));
        let (_, tag) = login.split_once('.').unwrap();
        for forged in [format!("9999999999.{tag}"), "9999999999.".into(), format!(".{tag}"), String::new()] {
            assert!(!logins.is_login(&forged, 1_000), "{forged}");
        }
    }

    #[test]
    fn a_users_cookie_says_nothing_and_is_opened_here_alone() {
        let logins = logins();
        let cookie = logins.sealed("a.b.c").unwrap();
        assert_eq!(logins.opened(&cookie).unwrap(), "a.b.c");
        assert_ne!(cookie, logins.sealed("a.b.c").unwrap());
        assert_eq!(self::tests::logins().opened(&cookie), None);
        for end in 0..cookie.len() {
            assert_eq!(logins.opened(&cookie[..end]), None, "cut at {end}");
        }
    }

    #[tokio::test]
    async fn the_token_in_the_form_gives_a_cookie_that_no_script_and_no_other_site_can_use() {
        let logins = logins();
        let ask = |path: &str, body: &str| {
            Request::post(path.to_owned()).body(Body::from(body.to_owned())).unwrap()
        };
        let refused = logins.serve(ask("/login", r#"{"token":"wrong"}"#)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(!refused.headers().contains_key(header::SET_COOKIE));
        let let_in = logins.serve(ask("/login", r#"{"token":"t0ken\n"}"#)).await;
        let cookie = let_in.headers()[header::SET_COOKIE].to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("t0ken"));
        let mut headers = HeaderMap::new();
        let sent = format!("other=1; {}", cookie.split(';').next().unwrap());
        headers.insert(header::COOKIE, sent.parse().unwrap());
        assert!(logins.who(&headers).await.is_ok());
        assert!(logins.who(&HeaderMap::new()).await.is_err());
    }
}

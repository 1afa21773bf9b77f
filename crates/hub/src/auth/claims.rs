//! The claims of a token (RFC 7519), and the user that they describe.

use std::collections::BTreeMap;

use blazedb_core::Value;
use blazedb_core::filter::User;
use blazedb_core::json::value_from_json;
use serde_json::{Map, Value as Json};

use super::binding::Binding;
use super::refusal::{TokenRefusal, cut};

/// Claims that are about the token and not about its user: rules don't see them, and a fresh token with others of
/// them says the same.
const OF_THE_TOKEN: [&str; 7] = ["sub", "exp", "nbf", "iat", "jti", "aud", "cnf"];

/// What a token claims, read but not judged.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) expires: u64,
    pub(super) not_before: Option<u64>,
    pub(super) issued: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) audience: Vec<String>,
    pub(super) bindings: Vec<Binding>,
    pub(super) user: User,
}

impl Claims {
    pub(super) fn read(mut claims: Map<String, Json>) -> Result<Self, TokenRefusal> {
        let issuer = issuer_of(&claims)?;
        let subject = text(&claims, "sub")?.ok_or_else(|| refused("sub", "is missing"))?;
        if subject.is_empty() {
            return Err(refused("sub", "is empty"));
        }
        let expires = seconds(&claims, "exp")?.ok_or_else(|| refused("exp", "is missing"))?;
        let (not_before, issued) = (seconds(&claims, "nbf")?, seconds(&claims, "iat")?);
        let id = text(&claims, "jti")?;
        let audience = match claims.get("aud") {
            Some(Json::String(one)) => vec![one.clone()],
            _ => texts(&claims, "aud")?,
        };
        let bindings = claims.get("cnf").map_or(Ok(Vec::new()), Binding::read_claim)?;
        let (teams, roles) = (texts(&claims, "teams")?, texts(&claims, "roles")?);
        for name in OF_THE_TOKEN.iter().chain(&["teams", "roles"]) {
            claims.remove(*name);
        }
        let further: Result<BTreeMap<String, Value>, TokenRefusal> = claims
            .into_iter()
            .map(|(name, json)| match value_from_json(json) {
                Ok(value) => Ok((name, value)),
                Err(_) => Err(refused(&name, "is not a value that a rule could look at")),
            })
            .collect();
        let user = User { id: subject, teams, roles, claims: further? };
        Ok(Self { issuer, expires, not_before, issued, id, audience, bindings, user })
    }
}

/// Who says to have issued the token.
pub(super) fn issuer_of(claims: &Map<String, Json>) -> Result<String, TokenRefusal> {
    text(claims, "iss")?.ok_or_else(|| refused("iss", "is missing"))
}

fn refused(claim: &str, problem: &'static str) -> TokenRefusal {
    TokenRefusal::Claim { claim: cut(claim), problem }
}

fn text(claims: &Map<String, Json>, name: &str) -> Result<Option<String>, TokenRefusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(refused(name, "is not text")),
    }
}

fn texts(claims: &Map<String, Json>, name: &str) -> Result<Vec<String>, TokenRefusal> {
    let wrong = || refused(name, "is not a list of texts");
    match claims.get(name) {
        None => Ok(Vec::new()),
        Some(Json::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// A `NumericDate`: whole seconds; a fraction is cut off.
fn seconds(claims: &Map<String, Json>, name: &str) -> Result<Option<u64>, TokenRefusal> {
    let Some(json) = claims.get(name) else { return Ok(None) };
    let whole = json.as_f64().filter(|number| (0.0..9e15).contains(number));
    let whole = whole.map(|number| number as u64);
    whole.map(Some).ok_or_else(|| refused(name, "is not a time in seconds since 1970"))
}

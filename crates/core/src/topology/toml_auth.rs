//! Reading `[auth]`.

use super::address::ListenAddress;
use super::error::{SpecError, SpecErrorKind};
use super::reader::Section;
use super::spec::{AuthSpec, IssuerKey, IssuerSpec};

const AUTH_KEYS: &[&str] = &["anonymous", "insecure", "issuers", "jwks_file", "revoked_file"];
const ISSUER_KEYS: &[&str] = &["name", "key_file", "jwks_file", "audience"];

pub(super) fn read_auth(
    section: Option<&Section<'_>>,
    listen: Option<&ListenAddress>,
) -> Result<AuthSpec, SpecError> {
    let Some(section) = section else { return Ok(AuthSpec::default()) };
    section.only(AUTH_KEYS)?;
    let anonymous = section.bool("anonymous")?.unwrap_or(false);
    let insecure = section.bool("insecure")?.unwrap_or(false);
    if let Some(listen) = listen.filter(|listen| anonymous && !insecure && !listen.is_loopback()) {
        return Err(section.error("anonymous", SpecErrorKind::AnonymousExposed(listen.to_string())));
    }
    let issuers = section.sections("issuers")?;
    Ok(AuthSpec {
        anonymous,
        insecure,
        issuers: issuers.iter().map(read_issuer).collect::<Result<_, _>>()?,
        jwks_file: section.path("jwks_file")?,
        revoked_file: section.path("revoked_file")?,
    })
}

fn read_issuer(section: &Section<'_>) -> Result<IssuerSpec, SpecError> {
    section.only(ISSUER_KEYS)?;
    let name = section.text("name")?.ok_or_else(|| section.missing("name"))?;
    let key = match (section.path("key_file")?, section.path("jwks_file")?) {
        (Some(path), None) => IssuerKey::KeyFile(path),
        (None, Some(path)) => IssuerKey::JwksFile(path),
        (None, None) => return Err(section.missing("key_file` or `jwks_file")),
        (Some(_), Some(_)) => {
            let kind = SpecErrorKind::Exclusive { first: "key_file", second: "jwks_file" };
            return Err(section.error("jwks_file", kind));
        }
    };
    Ok(IssuerSpec { name, key, audience: section.text("audience")? })
}

//! Every way in which a token is refused, and the vector of `docs/spec/tokens.md`.

use std::path::Path;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blazedb::{Identity, Token};
use blazedb_core::topology::announce::Announcement;
use blazedb_core::topology::{AuthSpec, IssuerKey as KeySource, IssuerSpec};
use blazedb_transport::{PublicKey, files};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value as Json, json};

use super::*;

const NOW: u64 = 1_800_000_000;

fn key() -> PublicKey {
    PublicKey::from_bytes(*Identity::generate().unwrap().public_key())
}

struct Issuer {
    algorithm: Algorithm,
    private: EncodingKey,
    public: String,
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

impl Issuer {
    fn es256() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = OwnIssuer::load_or_create(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("issuer.key")).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let private = EncodingKey::from_ec_der(&STANDARD.decode(body).unwrap());
        Self { algorithm: Algorithm::ES256, private, public: own.public_pem().to_owned() }
    }

    fn eddsa() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let private = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let public = pem(pair.public_key().as_der().unwrap().as_ref());
        Self { algorithm: Algorithm::EdDSA, private, public }
    }

    fn sign(&self, claims: &Json) -> String {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.private).unwrap()
    }

    fn trusted(&self) -> TrustedIssuer {
        TrustedIssuer { keys: vec![IssuerKey::from_file(&self.public).unwrap()], audience: None }
    }
}

fn claims(more: Json) -> Json {
    let mut claims = json!({ "iss": "idp", "sub": "anna", "exp": NOW + 100 });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Json::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// What becomes of a token of `issuer` that a node presents, by a hub that trusts `trusted` as "idp".
fn judged(token: &str, trusted: TrustedIssuer, peer: &PublicKey) -> Result<Verified, TokenRefusal> {
    let issuer = |name: &str| match name {
        "idp" => Ok(trusted),
        other => Err(TokenRefusal::UnknownIssuer(other.to_owned())),
    };
    verify(token, issuer, Some(peer), NOW)
}

#[test]
fn a_good_token_says_who_its_user_is() {
    for issuer in [Issuer::es256(), Issuer::eddsa()] {
        let said = claims(json!({
            "teams": ["ios"], "roles": ["admin"], "jti": "7", "iat": NOW + CLOCK_LEEWAY_S, "nbf": NOW,
            "level": 3, "org": { "unit": "a" },
        }));
        let verified = judged(&issuer.sign(&said), issuer.trusted(), &key()).unwrap();
        let user = &verified.user;
        assert_eq!(
            (user.id.as_str(), user.teams[0].as_str(), user.roles[0].as_str()),
            ("anna", "ios", "admin")
        );
        let names: Vec<_> = user.claims.keys().map(String::as_str).collect();
        assert_eq!(names, ["iss", "level", "org"]);
        assert_eq!((verified.id.as_deref(), verified.expires, verified.bound), (Some("7"), NOW + 100, false));
    }
}

#[test]
fn times_and_claims_are_held_to() {
    use TokenRefusal::{Audience, Claim, Expired, NotYetValid};
    let issuer = Issuer::es256();
    let refused = |more: Json| judged(&issuer.sign(&claims(more)), issuer.trusted(), &key()).unwrap_err();
    assert_eq!(refused(json!({ "exp": NOW })), Expired(NOW));
    assert_eq!(refused(json!({ "exp": 0 })), Expired(0));
    assert!(refused(json!({ "exp": NOW })).to_string().contains("expired at 2027-01-15T08:00:00Z"));
    let soon = NOW + CLOCK_LEEWAY_S + 1;
    assert_eq!(refused(json!({ "nbf": soon })), NotYetValid(soon));
    assert_eq!(refused(json!({ "iat": soon })), NotYetValid(soon));
    assert_eq!(refused(json!({ "aud": "shop" })), Audience);
    for (more, name) in [
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": "2030" }), "exp"),
        (json!({ "exp": -1 }), "exp"),
        (json!({ "exp": 1e300 }), "exp"),
        (json!({ "nbf": "now" }), "nbf"),
        (json!({ "sub": null }), "sub"),
        (json!({ "sub": "" }), "sub"),
        (json!({ "sub": 7 }), "sub"),
        (json!({ "iss": null }), "iss"),
        (json!({ "teams": "ios" }), "teams"),
        (json!({ "roles": [1] }), "roles"),
        (json!({ "big": 18_446_744_073_709_551_615_u64 }), "big"),
        (json!({ "odd": { "$uuid": 1 } }), "odd"),
        (json!({ "cnf": {} }), "cnf"),
        (json!({ "cnf": { "x5t#S256": "a" } }), "cnf"),
        (json!({ "cnf": { "blz": "a" } }), "cnf"),
    ] {
        let refusal = refused(more.clone());
        assert!(matches!(&refusal, Claim { claim, .. } if claim == name), "{more}: {refusal:?}");
    }
}

#[test]
fn an_audience_is_demanded_where_it_is_configured() {
    let issuer = Issuer::es256();
    let judge = |more: Json| {
        let trusted = TrustedIssuer { audience: Some("hub".to_owned()), ..issuer.trusted() };
        judged(&issuer.sign(&claims(more)), trusted, &key())
    };
    assert!(judge(json!({ "aud": "hub" })).is_ok());
    assert!(judge(json!({ "aud": ["shop", "hub"] })).is_ok());
    assert_eq!(judge(json!({ "aud": ["shop"] })), Err(TokenRefusal::Audience));
    assert_eq!(judge(json!({})), Err(TokenRefusal::Audience));
}

#[test]
fn the_algorithm_is_the_keys_and_never_none() {
    let (es, ed) = (Issuer::es256(), Issuer::eddsa());
    let algorithm = |token: &str, trusted| match judged(token, trusted, &key()) {
        Err(TokenRefusal::Algorithm(name)) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(algorithm(&ed.sign(&claims(json!({}))), es.trusted()), "EdDSA");
    assert_eq!(algorithm(&es.sign(&claims(json!({}))), ed.trusted()), "ES256");
    // The classic: the public key as the secret of an HMAC.
    let secret = EncodingKey::from_secret(es.public.as_bytes());
    let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(json!({})), &secret).unwrap();
    assert_eq!(algorithm(&forged, es.trusted()), "HS256");
    let part = |json: Json| URL_SAFE_NO_PAD.encode(json.to_string());
    for name in ["none", "None", "RS256", "ES384", ""] {
        let token = format!("{}.{}.", part(json!({ "alg": name })), part(claims(json!({}))));
        assert_eq!(algorithm(&token, es.trusted()), name);
    }
    let bare = format!("{}.{}.", part(json!({ "alg": "ES256" })), part(claims(json!({}))));
    assert_eq!(judged(&bare, es.trusted(), &key()), Err(TokenRefusal::Signature("idp".to_owned())));
    let critical =
        format!("{}.{}.AA", part(json!({ "alg": "ES256", "crit": ["x"] })), part(claims(json!({}))));
    assert_eq!(judged(&critical, es.trusted(), &key()), Err(TokenRefusal::Critical));
}

#[test]
fn only_the_issuers_own_signature_over_these_bytes_counts() {
    let (issuer, other) = (Issuer::es256(), Issuer::es256());
    let token = issuer.sign(&claims(json!({})));
    let signature = TokenRefusal::Signature("idp".to_owned());
    assert_eq!(judged(&token, other.trusted(), &key()), Err(signature.clone()));
    let forged = issuer.sign(&claims(json!({ "iss": "somebody" })));
    let unknown = TokenRefusal::UnknownIssuer("somebody".to_owned());
    assert_eq!(judged(&forged, issuer.trusted(), &key()), Err(unknown));
    let parts: Vec<&str> = token.split('.').collect();
    let root = URL_SAFE_NO_PAD.encode(claims(json!({ "sub": "root" })).to_string());
    let swapped = [parts[0], &root, parts[2]].join(".");
    assert_eq!(judged(&swapped, issuer.trusted(), &key()), Err(signature.clone()));
    for at in (0..parts[2].len()).step_by(7) {
        let mut text = parts[2].as_bytes().to_vec();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        let bent = [parts[0], parts[1], std::str::from_utf8(&text).unwrap()].join(".");
        assert!(judged(&bent, issuer.trusted(), &key()).is_err());
    }
    assert!(judged(&token, issuer.trusted(), &key()).is_ok());
}

#[test]
fn garbage_is_refused() {
    let issuer = Issuer::es256();
    let long = "x".repeat(8_000);
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30.e30", "W10.W10.AA", "é.é.é", &long]
    {
        let refusal = judged(text, issuer.trusted(), &key()).unwrap_err();
        assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{text}: {refusal:?}");
    }
    let token = issuer.sign(&claims(json!({})));
    for cut in 0..token.len() {
        assert!(judged(&token[..cut], issuer.trusted(), &key()).is_err());
    }
    assert!(judged(&format!("{token}="), issuer.trusted(), &key()).is_err());
    let deep = format!("{{\"iss\":{}", "[".repeat(6_000));
    let deep =
        format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(deep));
    assert!(matches!(judged(&deep, issuer.trusted(), &key()), Err(TokenRefusal::Malformed(_))));
}

#[test]
fn a_bound_token_is_good_for_its_node_only() {
    let issuer = Issuer::eddsa();
    let (mine, other) = (key(), key());
    for binding in [Binding::to_key(&mine), Binding::Fingerprint(mine.fingerprint())] {
        let token = issuer.sign(&claims(json!({ "cnf": binding.to_claim() })));
        assert!(judged(&token, issuer.trusted(), &mine).unwrap().bound);
        assert_eq!(judged(&token, issuer.trusted(), &other), Err(TokenRefusal::OtherNode));
    }
    let both = json!({ "jkt": thumbprint(&mine), "blz": other.fingerprint().to_string() });
    let token = issuer.sign(&claims(json!({ "cnf": both })));
    assert_eq!(judged(&token, issuer.trusted(), &mine), Err(TokenRefusal::OtherNode));
    assert_eq!(mine.fingerprint().to_string().parse(), Ok(Binding::Fingerprint(mine.fingerprint())));
    assert_eq!(thumbprint(&mine).parse(), Ok(Binding::to_key(&mine)));
    assert_eq!("node".parse::<Binding>(), Err(BindingError));
}

#[test]
fn keys_come_as_pem_jwk_and_key_set() {
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let ed = Ed25519KeyPair::generate().unwrap();
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": b64(ed.public_key().as_ref()) });
    let identity = Identity::generate().unwrap();
    let (x, y) = identity.public_key()[1..].split_at(32);
    let ec = json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "kid": "p" });
    let rsa = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
    assert!(IssuerKey::from_file(&jwk.to_string()).is_ok());
    assert!(IssuerKey::from_file(&ec.to_string()).is_ok());
    let set = |keys: &[&Json]| IssuerKey::from_set(&json!({ "keys": keys }).to_string());
    assert_eq!(set(&[&jwk, &rsa, &ec]).unwrap().len(), 2);
    let with = |more: Json| {
        let mut key = ec.clone();
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        IssuerKey::from_file(&key.to_string()).map(|_| ())
    };
    assert_eq!(with(json!({ "alg": "ES256", "use": "sig" })), Ok(()));
    for unusable in [
        json!({ "alg": "ES384" }),
        json!({ "use": "enc" }),
        json!({ "y": b64(x) }),
        json!({ "x": "" }),
        json!({ "crv": "P-384" }),
        json!({ "kty": "oct", "k": "AQAB" }),
    ] {
        assert_eq!(with(unusable.clone()), Err(KeyFileError::Unusable), "{unusable}");
    }
    assert_eq!(with(json!({ "d": "AA" })), Err(KeyFileError::Private));
    assert_eq!(set(&[&rsa]).unwrap_err(), KeyFileError::Unusable);
    assert_eq!(set(&[&ec; 65]).unwrap_err(), KeyFileError::TooMany);
    assert_eq!(IssuerKey::from_set(&ec.to_string()).unwrap_err(), KeyFileError::Set);
    assert_eq!(IssuerKey::from_file("key").unwrap_err(), KeyFileError::Form);
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = pem(p384.public_key().as_der().unwrap().as_ref());
    assert_eq!(IssuerKey::from_file(&p384).unwrap_err(), KeyFileError::Unusable);
    let private = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
    assert_eq!(IssuerKey::from_file(private).unwrap_err(), KeyFileError::Private);
}

#[test]
fn a_token_names_the_key_of_a_set() {
    let (first, second) = (Issuer::es256(), Issuer::es256());
    let named = |issuer: &Issuer, id: &str| IssuerKey {
        id: Some(id.to_owned()),
        ..IssuerKey::from_file(&issuer.public).unwrap()
    };
    let judge = |id: Option<&str>| {
        let trusted = TrustedIssuer { keys: vec![named(&first, "a"), named(&second, "b")], audience: None };
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims(json!({})), &second.private).unwrap();
        judged(&token, trusted, &key()).map(|_| ())
    };
    assert_eq!((judge(Some("b")), judge(None)), (Ok(()), Ok(())));
    assert_eq!(judge(Some("a")), Err(TokenRefusal::Signature("idp".to_owned())));
    assert!(matches!(judge(Some("c")), Err(TokenRefusal::UnknownKey { .. })));
}

fn spec(issuers: &[(&str, &str)]) -> AuthSpec {
    let issuer = |(name, file): &(&str, &str)| IssuerSpec {
        name: (*name).to_owned(),
        key: KeySource::KeyFile(file.into()),
        audience: None,
    };
    AuthSpec { issuers: issuers.iter().map(issuer).collect(), ..AuthSpec::default() }
}

fn own_token(dir: &Path, ttl_s: u64, binding: Option<&Binding>) -> Token {
    let own = OwnIssuer::load_or_create(dir).unwrap();
    let request = TokenRequest { user: "anna".to_owned(), ttl_s, ..TokenRequest::default() };
    own.issue(OWN_ISSUER, &request, binding, NOW).unwrap()
}

#[test]
fn a_node_accepts_what_its_own_issuer_says() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (dir.path(), dir.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    let auth = Authenticator::new(&spec(&[("self", "self.pub")]), base, &data).unwrap();
    let peer = key();
    let judge = |token: &Token, now| auth.authenticate(Some(token), &peer, now);
    let token = own_token(&data, 60, Some(&Binding::to_key(&peer)));
    let known = judge(&token, NOW).unwrap();
    assert_eq!(
        (known.user.unwrap().id.as_str(), known.expires, known.node),
        ("anna", Some(NOW + 60), peer.node_id())
    );
    assert_eq!(judge(&token, NOW + 60), Err(TokenRefusal::Expired(NOW + 60)));
    assert_eq!(auth.authenticate(Some(&token), &key(), NOW), Err(TokenRefusal::OtherNode));
    assert_eq!(auth.authenticate(None, &peer, NOW), Err(TokenRefusal::Missing));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(data.join("issuer.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // Another key in its place counts from the next look on; one that is gone lets nobody in.
    files::replace(&base.join("self.pub"), &Issuer::es256().public).unwrap();
    assert_eq!(judge(&token, NOW), Err(TokenRefusal::Signature("self".to_owned())));
    std::fs::remove_file(base.join("self.pub")).unwrap();
    assert_eq!(judge(&token, NOW), Err(TokenRefusal::KeysUnreadable("self".to_owned())));
}

#[test]
fn without_a_token_one_is_nobody_but_with_a_bad_one_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = AuthSpec { anonymous: true, ..spec(&[("self", "self.pub")]) };
    let auth = Authenticator::new(&spec, dir.path(), dir.path()).unwrap();
    let peer = key();
    assert_eq!(auth.authenticate(None, &peer, NOW).unwrap(), Peer::anonymous(&peer));
    let expired = own_token(dir.path(), 0, None);
    assert_eq!(auth.authenticate(Some(&expired), &peer, NOW), Err(TokenRefusal::Expired(NOW)));
    let garbage = "x".parse().unwrap();
    assert!(matches!(auth.authenticate(Some(&garbage), &peer, NOW), Err(TokenRefusal::Malformed(_))));
}

/// Whoever is found on the network is shown what it can't use, or what it could only use if it belongs here anyway.
#[test]
fn a_token_is_shown_to_who_is_found_if_it_is_bound_or_that_one_knows_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(&[("self", "self.pub")]);
    spec.issuers.push(IssuerSpec {
        name: "idp".to_owned(),
        key: KeySource::JwksFile("set.json".into()),
        audience: None,
    });
    let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([9; 32]) }] });
    std::fs::write(dir.path().join("set.json"), set.to_string()).unwrap();
    let auth = Authenticator::new(&spec, dir.path(), dir.path()).unwrap();
    let issuers = auth.issuers();
    assert_eq!(issuers.len(), 1, "a key set is published: it proves nothing");
    let own = key();
    let say = |issuers: &[Vec<u8>]| {
        Announcement::new("blz1-other".into(), false, [1; 8], ["bugs"], issuers.iter().map(Vec::as_slice))
    };
    let (stranger, friend) = (say(&[vec![4; 65]]), say(&issuers));
    let shows = |token: &Token, to| auth.may_show(token, own.as_bytes(), to);
    let bound = own_token(dir.path(), 60, Some(&Binding::to_key(&own)));
    assert!(shows(&bound, &stranger));
    assert!(!shows(&own_token(dir.path(), 60, Some(&Binding::to_key(&key()))), &stranger));
    let unbound = own_token(dir.path(), 60, None);
    assert!(!shows(&unbound, &stranger) && shows(&unbound, &friend));
    let elsewhere: Token = Issuer::eddsa().sign(&claims(json!({}))).parse().unwrap();
    assert!(!shows(&elsewhere, &friend), "its issuer's key was not proven");
    assert!(!shows(&"x".parse().unwrap(), &friend));
}

#[test]
fn what_can_not_be_used_keeps_the_node_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let refused =
        |spec: &AuthSpec| Authenticator::new(spec, dir.path(), dir.path()).err().unwrap().to_string();
    assert!(refused(&spec(&[("idp", "idp.pub")])).contains("idp.pub: there is no such file"));
    std::fs::write(dir.path().join("idp.pub"), "x").unwrap();
    assert!(refused(&spec(&[("idp", "idp.pub")])).contains("neither a PEM"));
    assert!(refused(&spec(&[("self", "a"), ("self", "a")])).contains("twice"));
    std::fs::write(dir.path().join("revoked"), "blz1-x").unwrap();
    assert!(refused(&AuthSpec::default()).contains("revoked: line 1"));
}

#[test]
fn what_is_revoked_is_refused_from_the_next_look_on() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Authenticator::new(&spec(&[("self", "self.pub")]), dir.path(), dir.path()).unwrap();
    let peer = key();
    let token = own_token(dir.path(), 60, None);
    let judge = || auth.authenticate(Some(&token), &peer, NOW);
    let id = judge().unwrap().token.unwrap();
    let list = dir.path().join("revoked");
    for entry in [id.clone(), "sub:anna".to_owned(), peer.fingerprint().to_string()] {
        std::fs::write(&list, "# nothing\n\nsub:bert\nother").unwrap();
        assert!(judge().is_ok());
        let entry: Revocation = entry.parse().unwrap();
        assert!(entry.append_to(&list).unwrap());
        assert!(!entry.append_to(&list).unwrap());
        assert!(matches!(judge(), Err(TokenRefusal::Revoked(_))), "{entry}");
    }
    std::fs::write(&list, "blz1-broken").unwrap();
    assert_eq!(judge(), Err(TokenRefusal::ListUnreadable));
    for odd in ["", "a b", "sub:", "sub:a\nb", "blz1-a"] {
        assert!(odd.parse::<Revocation>().is_err(), "{odd:?}");
    }
    assert_eq!("sub:Anna B.".parse(), Ok(Revocation::User("Anna B.".to_owned())));
}

#[tokio::test]
async fn open_sessions_end_when_a_token_is_over_or_revoked() {
    use blazedb::{CloseCode, Verdict};
    let dir = tempfile::tempdir().unwrap();
    let auth = std::sync::Arc::new(Authenticator::new(&AuthSpec::default(), dir.path(), dir.path()).unwrap());
    let over = Peer { expires: Some(now_s() + 1), ..Peer::anonymous(&key()) };
    let listed = Peer { token: Some("t".to_owned()), ..Peer::anonymous(&key()) };
    let renewed = Peer { expires: Some(now_s() + 1), ..Peer::anonymous(&key()) };
    let mut places = Vec::new();
    let mut watched = |peer: &Peer| {
        let (sender, verdicts) = tokio::sync::watch::channel(Verdict::Stays);
        places.push(auth.watch(peer.clone(), sender, None));
        verdicts
    };
    let (mut over, mut listed, renewed) = (watched(&over), watched(&listed), watched(&renewed));
    places[2].now_is(Peer { expires: Some(now_s() + 60), ..places[2].peer().unwrap() });
    tokio::spawn(std::sync::Arc::clone(&auth).keep_watch());
    Revocation::Token("t".to_owned()).append_to(&dir.path().join("revoked")).unwrap();
    for (verdicts, words) in [(&mut over, "expired at"), (&mut listed, "the token is revoked")] {
        let wait = std::time::Duration::from_secs(10);
        tokio::time::timeout(wait, verdicts.changed()).await.unwrap().unwrap();
        let Verdict::Refused(refusal) = verdicts.borrow().clone() else { panic!() };
        assert_eq!(refusal.code, CloseCode::Unauthenticated);
        assert!(refusal.reason.contains(words), "{}", refusal.reason);
    }
    assert_eq!(*renewed.borrow(), Verdict::Stays);
}

#[test]
fn what_a_token_may_say_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let own = OwnIssuer::load_or_create(dir.path()).unwrap();
    let issue = |request: &TokenRequest| own.issue(OWN_ISSUER, request, None, NOW);
    let request = TokenRequest { user: "anna".to_owned(), ttl_s: 9, ..TokenRequest::default() };
    assert!(issue(&request).is_ok());
    assert!(matches!(
        issue(&TokenRequest { user: String::new(), ..request.clone() }),
        Err(IssueError::NoUser)
    ));
    let with = |name: &str, value: String| {
        let mut request = request.clone();
        request.claims.insert(name.to_owned(), value.into());
        request
    };
    assert!(matches!(issue(&with("exp", "9".to_owned())), Err(IssueError::Reserved(_))));
    assert!(matches!(issue(&with("more", "x".repeat(9_000))), Err(IssueError::TooLong(_))));
    std::fs::write(dir.path().join("issuer.key"), "x").unwrap();
    assert!(matches!(OwnIssuer::load_or_create(dir.path()), Err(IssueError::Damaged(_))));
}

/// The vectors were made by another implementation (pyca/cryptography).
#[test]
fn the_vectors_of_the_specification() {
    let file: Json = serde_json::from_str(include_str!("../../../../vectors/tokens.json")).unwrap();
    let key = |json: &Json| {
        let hex = json["public_key"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        PublicKey::from_bytes(std::array::from_fn(byte))
    };
    let (node, other) = (key(&file["node"]), key(&file["other_node"]));
    assert_eq!(thumbprint(&node), file["node"]["thumbprint"]);
    assert_eq!(node.fingerprint().to_string(), file["node"]["fingerprint"]);
    for case in file["tokens"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let judge = |peer: &PublicKey, now_s| {
            let keys = vec![IssuerKey::from_file(case["issuer_key"].as_str().unwrap()).unwrap()];
            let trusted = |_: &str| Ok(TrustedIssuer { keys, audience: None });
            verify(case["token"].as_str().unwrap(), trusted, Some(peer), now_s)
        };
        let (now, expires) = (case["now"].as_u64().unwrap(), case["expires"].as_u64().unwrap());
        let verified = judge(&node, now).unwrap();
        let user = &verified.user;
        let claims: serde_json::Map<_, _> = user
            .claims
            .iter()
            .map(|(name, value)| (name.clone(), blazedb_core::json::value_to_json(value)))
            .collect();
        let said = json!({ "id": user.id, "teams": user.teams, "roles": user.roles, "claims": claims });
        assert_eq!((said, verified.expires, verified.bound), (case["user"].clone(), expires, true), "{name}");
        assert_eq!(judge(&other, now), Err(TokenRefusal::OtherNode), "{name}");
        assert_eq!(judge(&node, expires), Err(TokenRefusal::Expired(expires)), "{name}");
    }
}

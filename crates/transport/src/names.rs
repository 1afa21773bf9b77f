//! Database names in the address of a connection: `/sync/{database}?from={local}`, percent-encoded; `/query/..` for
//! questions, `/rehearse/..` for rehearsals.

use blazedb_core::limits::MAX_DATABASE_NAME_BYTES;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Purpose {
    /// A session that keeps two databases in step.
    #[default]
    Sync,
    /// Questions to the database.
    Questions,
    /// A session that is only played through, to know what it would carry.
    Rehearsal,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Sync, Self::Questions, Self::Rehearsal];

    const fn path(self) -> &'static str {
        match self {
            Self::Sync => "/sync/",
            Self::Questions => "/query/",
            Self::Rehearsal => "/rehearse/",
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// A name that can't be a database's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The path is none of `/sync/{database}?from={local}`, `/query/..` and `/rehearse/..`.
    #[error(
        "the path must be /sync/{{database}}?from={{database of the caller}}, or /query/.. or /rehearse/.."
    )]
    Path,
    /// A name has no characters.
    #[error("a database name is empty")]
    Empty,
    /// A name is too long.
    #[error("a database name of {bytes} bytes is longer than {MAX_DATABASE_NAME_BYTES}")]
    TooLong {
        /// Its length, in bytes of UTF-8.
        bytes: usize,
    },
    /// A name holds control characters.
    #[error("a database name holds a control character")]
    Control,
    /// The percent-encoding is broken, or what it encodes is not UTF-8.
    #[error("a database name is not percent-encoded UTF-8")]
    Encoding,
}

/// Accepts what may be a database's name.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        bytes if bytes > MAX_DATABASE_NAME_BYTES => Err(NameError::TooLong { bytes }),
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ => Ok(()),
    }
}

/// Path and query that ask for `remote` on behalf of `local`.
pub(crate) fn target(purpose: Purpose, local: &str, remote: &str) -> Result<String, NameError> {
    check(local)?;
    check(remote)?;
    let mut target = purpose.path().to_owned();
    encode(remote, &mut target);
    target.push_str("?from=");
    encode(local, &mut target);
    Ok(target)
}

/// What is asked for by path and query: what for, the database, and the caller's.
pub(crate) fn parse_target(path: &str, query: Option<&str>) -> Result<(Purpose, String, String), NameError> {
    let mut purposes = Purpose::ALL.into_iter();
    let asked = purposes.find_map(|purpose| Some((purpose, path.strip_prefix(purpose.path())?)));
    let (purpose, database) = asked.ok_or(NameError::Path)?;
    let from = query.and_then(|query| query.strip_prefix("from=")).ok_or(NameError::Path)?;
    Ok((purpose, decode(database)?, decode(from)?))
}

fn encode(name: &str, out: &mut String) {
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.extend(HEX.get(usize::from(nibble)).map(|&digit| char::from(digit)));
            }
        }
    }
}

fn decode(text: &str) -> Result<String, NameError> {
    if text.len() > MAX_DATABASE_NAME_BYTES * 3 {
        return Err(NameError::TooLong { bytes: text.len() });
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (rest.next().and_then(digit), rest.next().and_then(digit))
                else {
                    return Err(NameError::Encoding);
                };
                bytes.push(high << 4 | low);
            }
            b'/' | b'&' | b'=' | b'?' => return Err(NameError::Path),
            _ => bytes.push(byte),
        }
    }
    let name = String::from_utf8(bytes).map_err(|_| NameError::Encoding)?;
    check(&name)?;
    Ok(name)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_and_reads_the_target() {
        for (purpose, root) in
            [(Purpose::Sync, "/sync/"), (Purpose::Questions, "/query/"), (Purpose::Rehearsal, "/rehearse/")]
        {
            let target = target(purpose, "böse/../?", "hub bugs").unwrap();
            assert_eq!(target, format!("{root}hub%20bugs?from=b%C3%B6se%2F..%2F%3F"));
            let (path, query) = target.split_once('?').unwrap();
            assert_eq!(parse_target(path, Some(query)), Ok((purpose, "hub bugs".into(), "böse/../?".into())));
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = "x".repeat(MAX_DATABASE_NAME_BYTES + 1);
        let cases = [
            ("/", Some("from=a"), NameError::Path),
            ("/else/a", Some("from=a"), NameError::Path),
            ("/sync/a", None, NameError::Path),
            ("/sync/a", Some("to=a"), NameError::Path),
            ("/sync/a", Some("from=a&x=y"), NameError::Path),
            ("/sync/a/b", Some("from=a"), NameError::Path),
            ("/sync/", Some("from=a"), NameError::Empty),
            ("/sync/a%", Some("from=a"), NameError::Encoding),
            ("/sync/a%g0", Some("from=a"), NameError::Encoding),
            ("/sync/%ff", Some("from=a"), NameError::Encoding),
            ("/sync/a%00", Some("from=a"), NameError::Control),
        ];
        for (path, query, expected) in cases {
            assert_eq!(parse_target(path, query), Err(expected), "{path}?{query:?}");
        }
        let bytes = long.len();
        assert_eq!(target(Purpose::Sync, &long, "a"), Err(NameError::TooLong { bytes }));
        assert_eq!(parse_target(&format!("/sync/{long}"), Some("from=a")), Err(NameError::TooLong { bytes }));
    }

    proptest! {
        #[test]
        fn any_name_round_trips(local in "\\PC{1,30}", remote in "\\PC{1,30}") {
            prop_assume!(check(&local).is_ok() && check(&remote).is_ok());
            let target = target(Purpose::Sync, &local, &remote).unwrap();
            let (path, query) = target.split_once('?').unwrap();
            prop_assert_eq!(parse_target(path, Some(query)), Ok((Purpose::Sync, remote, local)));
        }

        #[test]
        fn parsing_is_total(path in "(/sync/)?\\PC*", query in "(from=)?\\PC*") {
            let _ = parse_target(&path, Some(&query));
        }
    }
}

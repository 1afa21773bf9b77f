//! Secrets that people hand over: invitation codes, recovery phrases, passphrases.

use bip39::{Language, Mnemonic};
use sha2::{Digest, Sha256};

use super::{KeyringError, MemberSecret};
use crate::seal::Secret;

const PREFIX: &str = "blzi-";
const SECRET_BYTES: usize = 16;
const CHECK_BYTES: usize = 2;

/// Memory that a passphrase costs to try, in KiB; passes over it.
const ARGON2_KIB: u32 = 64 << 10;
const ARGON2_PASSES: u32 = 3;

/// A secret that makes whoever has it a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// An invitation: `blzi-` and 36 hexadecimal digits in groups.
    Invitation(Secret),
    /// A recovery phrase: 24 words (BIP-39, English).
    Recovery(Secret),
}

impl Code {
    /// The invitation of these random bytes.
    #[must_use]
    pub fn invitation(random: [u8; SECRET_BYTES]) -> (Self, String) {
        let check = Sha256::digest(random);
        let mut text = PREFIX.to_owned();
        for (at, byte) in random.iter().chain(check.iter().take(CHECK_BYTES)).enumerate() {
            if at > 0 && at % 3 == 0 {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        (Self::Invitation(invitation_secret(&random)), text)
    }

    /// The recovery phrase of these random bytes; the words are divided by spaces.
    ///
    /// # Errors
    /// [`KeyringError::Code`] if the word list fails; it does not.
    pub fn recovery(random: [u8; 32]) -> Result<(Self, String), KeyringError> {
        let words = Mnemonic::from_entropy_in(Language::English, &random);
        let words = words.map_err(|_| KeyringError::Code("no recovery phrase could be made"))?;
        let text = words.words().collect::<Vec<_>>().join(" ");
        Ok((Self::Recovery(Secret::new(random)), text))
    }

    /// Reads an invitation code or a recovery phrase, as people type them.
    ///
    /// # Errors
    /// [`KeyringError::Code`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let text = text.trim().to_lowercase();
        match text.strip_prefix(PREFIX) {
            Some(digits) => parse_invitation(digits),
            None => parse_recovery(&text),
        }
    }

    /// The member whose secret this is.
    #[must_use]
    pub fn member(&self) -> MemberSecret {
        match self {
            Self::Invitation(secret) => MemberSecret::new(secret.clone()),
            Self::Recovery(secret) => MemberSecret::new(secret.derive(&[], b"blazedb recovery 1")),
        }
    }
}

fn invitation_secret(random: &[u8; SECRET_BYTES]) -> Secret {
    let mut secret = [0; 32];
    secret.iter_mut().zip(random).for_each(|(to, from)| *to = *from);
    Secret::new(secret).derive(&[], b"blazedb invitation 1")
}

fn parse_invitation(digits: &str) -> Result<Code, KeyringError> {
    let wrong = KeyringError::Code("an invitation code is `blzi-` and 36 digits of 0-9 and a-f: check it");
    let digits: Vec<u32> = digits
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or(wrong.clone())?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit) as u8).collect();
    let (secret, check) = bytes.split_first_chunk::<SECRET_BYTES>().ok_or(wrong.clone())?;
    if digits.len() != 2 * (SECRET_BYTES + CHECK_BYTES) || !Sha256::digest(secret).starts_with(check) {
        return Err(wrong);
    }
    Ok(Code::Invitation(invitation_secret(secret)))
}

fn parse_recovery(text: &str) -> Result<Code, KeyringError> {
    let wrong = KeyringError::Code(
        "that is neither an invitation code (`blzi-...`) nor a recovery phrase of 24 English words: check it",
    );
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|_| wrong.clone())?;
    let (entropy, len) = words.to_entropy_array();
    let secret = entropy.first_chunk::<32>().filter(|_| len == 32).ok_or(wrong)?;
    Ok(Code::Recovery(Secret::new(*secret)))
}

/// The member of a passphrase (Argon2id, 64 MiB, 3 passes).
///
/// # Errors
/// [`KeyringError::Code`] if the passphrase is empty or there is not enough memory.
pub fn passphrase_member(passphrase: &str, salt: &[u8; 16]) -> Result<MemberSecret, KeyringError> {
    if passphrase.is_empty() {
        return Err(KeyringError::Code("the passphrase is empty"));
    }
    let failed =
        |_| KeyringError::Code("the passphrase could not be turned into a key: is there memory left?");
    let params = argon2::Params::new(ARGON2_KIB, ARGON2_PASSES, 1, Some(32)).map_err(failed)?;
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut out = [0; 32];
    hasher.hash_password_into(passphrase.as_bytes(), salt, &mut out).map_err(failed)?;
    Ok(MemberSecret::new(Secret::new(out).derive(&[], b"blazedb passphrase 1")))
}

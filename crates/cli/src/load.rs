//! Reading the topology file of a command.

use std::path::Path;

use blazedb_core::Filter;
use blazedb_core::topology::{
    DatabaseName, DatabaseSpec, FilterTextError, FilterUse, ParseContext, PasswordRule, SpecErrorKind,
    TopologySpec, parse,
};

use crate::args::GlobalArgs;
use crate::output::{CliError, ErrorCode};

/// Reads the topology file of a command. Where passwords come from is asked when a database is opened.
///
/// # Errors
/// As [`load_topology`].
pub fn load(global: &GlobalArgs) -> Result<TopologySpec, CliError> {
    load_topology(&global.file, PasswordRule::Optional, &check_filter)
}

fn check_filter(text: &str, used: FilterUse) -> Result<(), FilterTextError> {
    let parsed = match used {
        FilterUse::Policy => Filter::parse(text),
        _ => Filter::parse_rule(text),
    };
    parsed
        .map(drop)
        .map_err(|error| FilterTextError { column: error.column, message: error.kind.to_string() })
}

/// A database's entry.
///
/// # Errors
/// [`ErrorCode::NotFound`] if the topology file has none.
pub fn entry<'s>(spec: &'s TopologySpec, db: &DatabaseName) -> Result<&'s DatabaseSpec, CliError> {
    spec.databases.get(db).ok_or_else(|| {
        let names: Vec<String> = spec.databases.keys().map(ToString::to_string).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CliError::new(ErrorCode::NotFound, format!("no database {:?} in the topology file", db.as_str()))
            .with_hint(format!("it has {known}; add [databases.{db}], or name another file with -f"))
    })
}

/// Reads and checks a topology file; `${NAME}` comes from the process's environment.
///
/// # Errors
/// [`ErrorCode::Config`] if the file is missing, can't be read or is wrong; the message begins with the place.
pub fn load_topology(
    file: &Path,
    passwords: PasswordRule,
    check_filter: &dyn Fn(&str, FilterUse) -> Result<(), FilterTextError>,
) -> Result<TopologySpec, CliError> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        CliError::new(ErrorCode::Config, format!("{shown}: {error}"))
            .with_hint("`blazedb init` writes a topology file; -f FILE or BLAZEDB_FILE names another one")
    })?;
    let env = |name: &str| std::env::var(name).ok();
    parse(&text, &ParseContext { env: &env, check_filter, passwords }).map_err(|error| {
        let failure = CliError::new(ErrorCode::Config, format!("{shown}:{error}"));
        match error.kind {
            SpecErrorKind::EnvMissing(name) => failure.with_hint(format!("export {name}=...")),
            _ => failure,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_a_configuration_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        let load = || load_topology(&file, PasswordRule::Required, &|_, _| Ok(())).unwrap_err();
        let missing = load();
        assert_eq!(missing.code, ErrorCode::Config);
        assert!(missing.hint.unwrap().contains("blazedb init"));

        std::fs::write(&file, "[node]\nnam = 'x'\n").unwrap();
        let wrong = load();
        assert_eq!(wrong.code.exit(), 2);
        assert!(wrong.message.contains("t.toml:2:1: unknown key `nam`"), "{}", wrong.message);

        std::fs::write(&file, "[node]\nname = '${BLAZEDB_TEST_UNSET}'\n").unwrap();
        assert_eq!(load().hint.unwrap(), "export BLAZEDB_TEST_UNSET=...");
    }
}

//! Answers to command lines that name no command to run: help, version, wrong usage.
//!
//! Invariant: wrong usage is an error like any other: one line, or JSON if `--json` stands anywhere.

use std::ffi::OsString;

use clap::error::ErrorKind;

use crate::args::GlobalArgs;
use crate::output::{CliError, ErrorCode, Output};

/// Whether `--json` is among the options, even if the rest of the line can't be understood.
pub(crate) fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// Prints help and version, and makes an error of everything else.
pub(crate) fn answer(error: &clap::Error, json: bool) -> Result<(), CliError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let global = GlobalArgs { file: "".into(), json, quiet: false, verbose: 0 };
            let mut output = Output::to_stdout(&global);
            output.line(error.render().to_string().trim_end())?;
            output.flush()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(CliError::new(ErrorCode::Usage, "no command given").with_hint("blazedb --help lists them"))
        }
        _ => Err(from_rendered(&error.render().to_string())),
    }
}

/// Clap renders paragraphs: the error, tips, the usage, and where to find help.
fn from_rendered(text: &str) -> CliError {
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let rest: Vec<&str> = paragraphs.collect();
    let tip = rest.iter().find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let usage = rest.iter().find(|paragraph| paragraph.starts_with("Usage:")).copied();
    let error = CliError::new(ErrorCode::Usage, joined(message));
    match tip.or(usage) {
        Some(hint) => error.with_hint(joined(hint)),
        None => error.with_hint("see --help"),
    }
}

fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn error(line: &[&str]) -> CliError {
        answer(&Cli::try_parse_from(line).unwrap_err(), false).unwrap_err()
    }

    #[test]
    fn wrong_usage_is_one_line_with_what_to_do() {
        let unknown = error(&["blazedb", "inser"]);
        assert_eq!(unknown.code, ErrorCode::Usage);
        assert!(unknown.message.contains("'inser'"), "{unknown:?}");
        assert!(unknown.hint.unwrap().contains("'insert'"));

        let missing = error(&["blazedb", "get", "bugs"]);
        assert!(missing.message.contains("<ID>"), "{missing:?}");
        assert!(missing.hint.unwrap().starts_with("Usage: blazedb get"));

        let bad = error(&["blazedb", "get", "a/b", "x"]);
        assert!(bad.message.contains("not '/'"), "{bad:?}");
        assert_eq!(error(&["blazedb"]).message, "no command given");
    }

    #[test]
    fn json_is_asked_for_by_an_option_and_not_by_data() {
        let args = |line: &[&str]| line.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(asks_for_json(&args(&["blazedb", "nonsense", "--json"])));
        assert!(!asks_for_json(&args(&["blazedb", "insert", "bugs", "--", "--json"])));
        assert!(!asks_for_json(&args(&["--json"])));
    }
}

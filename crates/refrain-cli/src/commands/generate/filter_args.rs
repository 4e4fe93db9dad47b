//! A flag for every filter, from the library's list of them.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use refrain::decode::filters::Role;
use refrain::decode::{FILTERS, FilterKind, FilterSettings};

/// The number of each filter.
#[derive(Clone, Debug)]
pub(super) struct FilterArgs(pub(super) FilterSettings);

/// The flags that shape a distribution to draw from.
pub(super) fn sampling_filters() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().filter(|kind| kind.role == Role::Sampling).map(|kind| kind.name)
}

fn arg(kind: &'static FilterKind) -> Arg {
    Arg::new(kind.name)
        .long(kind.name)
        .value_name(kind.value_name)
        .help(format!("{} [default: {}]", kind.help, kind.default))
        .help_heading("Filters, applied in this order")
        .allow_negative_numbers(true)
        .value_parser(|text: &str| kind.parse(text))
}

impl Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        command.args(FILTERS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut args = Self(FilterSettings::default());
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for kind in FILTERS {
            if let Some(&value) = matches.get_one::<f64>(kind.name) {
                self.0.set(kind.name, value).expect("the parser has checked it");
            }
        }
        Ok(())
    }
}

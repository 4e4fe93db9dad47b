//! Text on a terminal, shaded by probability.

use std::fmt::Write as _;

use crate::console::Console;
use crate::heat_map::Scale;

const RESET: &str = "\x1b[0m";

/// The text on the colour of its probability. A new line has a sign, so that there is something to shade.
pub(crate) fn shaded(text: &str, log_probability: f64) -> String {
    let [red, green, blue] = Scale::Share.rgb(log_probability.exp() as f32);
    // Black on what is bright, white on what is dark.
    let ink = if u32::from(green) > 128 { 16 } else { 231 };
    let colours = format!("\x1b[48;2;{red};{green};{blue};38;5;{ink}m");
    let mut shaded = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            writeln!(shaded, "{colours}↵{RESET}").expect("a string takes all that is written to it");
        }
        if !line.is_empty() {
            write!(shaded, "{colours}{line}{RESET}").expect("a string takes all that is written to it");
        }
    }
    shaded
}

/// Says on stderr what the colours mean.
pub(crate) fn explain() {
    const STEPS: u32 = 20;
    let bar: String = (0..=STEPS).map(|step| shaded(" ", (f64::from(step) / f64::from(STEPS)).ln())).collect();
    Console::new().line(&format!("probability 0 {bar} 1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_ends_before_the_line_does() {
        assert_eq!(shaded("a", 0.0), "\x1b[48;2;255;234;70;38;5;16ma\x1b[0m");
        assert_eq!(
            shaded("a\n", f64::NEG_INFINITY),
            "\x1b[48;2;0;32;77;38;5;231ma\x1b[0m\x1b[48;2;0;32;77;38;5;231m↵\x1b[0m\n"
        );
    }
}

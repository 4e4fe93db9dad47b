//! A curve over a logarithmic axis as one SVG: every value faint, its running mean bold, a mark where one is.

use std::fmt::Write as _;

use crate::heat_map::{STYLE, escaped};

/// A value and its running mean at one place of the axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) x: f64,
    pub(crate) value: f64,
    pub(crate) mean: f64,
}

/// The picture.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// In ascending order of `x`, which is above 0.
    pub(crate) samples: Vec<Sample>,
    /// A place of the axis, and what is there.
    pub(crate) mark: Option<(f64, String)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 52.0;
/// Blue and orange, which show on both grounds and which no common colour blindness confuses.
const LINE: &str = "#4a90d9";
const MARK: &str = "#d9822b";
/// What lies this much above the first value, as a share of it, is beyond the upper edge: a loss that has left all bounds would
/// flatten all else.
const HEADROOM: f64 = 0.25;

/// The plotted area in the units of the data: decades and values.
struct Frame {
    low: [f64; 2],
    high: [f64; 2],
}

impl Frame {
    fn of(samples: &[Sample]) -> Self {
        if samples.is_empty() {
            return Self { low: [0.0; 2], high: [1.0; 2] };
        }
        let decades = samples.iter().map(|sample| sample.x.log10());
        let (first, last) =
            decades.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let lowest = samples.iter().map(|sample| sample.value.min(sample.mean)).fold(f64::INFINITY, f64::min);
        let limit = samples.first().map_or(1.0, |sample| sample.value * (1.0 + HEADROOM));
        let highest = samples.iter().map(|sample| sample.value.min(limit)).fold(f64::NEG_INFINITY, f64::max);
        // A curve without height or width still has a place.
        Self { low: [first, lowest - 0.05], high: [last.max(first + 1e-9), highest.max(lowest) + 0.05] }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (x.log10() - self.low[0]) / (self.high[0] - self.low[0]) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.low[1]) / (self.high[1] - self.low[1]) * (HEIGHT - TOP - BOTTOM)
    }

    /// The values at the lines across: round ones, four to ten.
    fn lines(&self) -> Vec<f64> {
        let span = self.high[1] - self.low[1];
        let power = 10f64.powf((span / 4.0).log10().floor());
        let step =
            [5.0, 2.0, 1.0].map(|digit| digit * power).into_iter().find(|step| span / step >= 4.0).unwrap_or(power);
        let first = (self.low[1] / step).ceil() as i64;
        let last = (self.high[1] / step).floor() as i64;
        (first..=last).map(|line| line as f64 * step).collect()
    }
}

impl Curve {
    /// The file: the same picture gives the same bytes.
    pub(crate) fn svg(&self) -> String {
        let frame = Frame::of(&self.samples);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"15\">{title}</text>\n\
             <text class=\"faint\" x=\"{LEFT}\" y=\"44\" font-size=\"11\">{subtitle}</text>\n\
             <clipPath id=\"area\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/></clipPath>\n",
            right - LEFT,
            bottom - TOP,
            title = escaped(&self.title),
            subtitle = escaped(&self.subtitle),
        );
        let mut add = |line: std::fmt::Arguments<'_>| writeln!(svg, "{line}").expect("a string takes all");
        for value in frame.lines() {
            let y = frame.y(value);
            add(format_args!("<path class=\"frame\" opacity=\".3\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            let at = format_args!("x=\"{}\" y=\"{:.1}\"", LEFT - 8.0, y + 4.0);
            add(format_args!(
                "<text class=\"faint\" {at} font-size=\"11\" text-anchor=\"end\">{}</text>",
                rounded(value)
            ));
        }
        for decade in frame.low[0].ceil() as i32..=frame.high[0].floor() as i32 {
            let x = frame.x(10f64.powi(decade));
            add(format_args!("<path class=\"frame\" opacity=\".3\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            let at = format_args!("x=\"{x:.1}\" y=\"{}\"", bottom + 16.0);
            add(format_args!("<text class=\"faint\" {at} font-size=\"11\" text-anchor=\"middle\">1e{decade}</text>"));
        }
        let path = |value: fn(&Sample) -> f64| {
            // Far beyond the edge is beyond it too, and no program's numbers end there.
            let limit = frame.high[1] + 10.0 * (frame.high[1] - frame.low[1]);
            let points = self.samples.iter().filter(|sample| value(sample).is_finite());
            let points =
                points.map(|sample| format!("{:.1} {:.1}", frame.x(sample.x), frame.y(value(sample).min(limit))));
            format!("M{}", points.collect::<Vec<_>>().join("L"))
        };
        add(format_args!(
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>",
            right - LEFT,
            bottom - TOP
        ));
        add(format_args!("<g clip-path=\"url(#area)\" fill=\"none\" stroke=\"{LINE}\" stroke-linejoin=\"round\">"));
        add(format_args!("<path opacity=\".45\" d=\"{}\"/>", path(|sample| sample.value)));
        add(format_args!("<path stroke-width=\"2.5\" d=\"{}\"/>\n</g>", path(|sample| sample.mean)));
        if let Some((place, name)) = &self.mark {
            let x = frame.x(*place);
            let (anchor, side) = if x > WIDTH / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
            add(format_args!(
                "<path stroke=\"{MARK}\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\" d=\"M{x:.1} {TOP}V{bottom}\"/>"
            ));
            let at = format_args!("x=\"{:.1}\" y=\"{}\"", x + side, TOP + 16.0);
            add(format_args!("<text {at} font-size=\"12\" text-anchor=\"{anchor}\">{}</text>", escaped(name)));
        }
        let middle = f64::midpoint(LEFT, right);
        let below = format_args!("x=\"{middle}\" y=\"{}\"", HEIGHT - 12.0);
        add(format_args!("<text {below} font-size=\"12\" text-anchor=\"middle\">{}</text>", escaped(&self.x_label)));
        let beside = format_args!("transform=\"translate(16 {}) rotate(-90)\"", f64::midpoint(TOP, bottom));
        add(format_args!(
            "<text {beside} font-size=\"12\" text-anchor=\"middle\">{}</text>\n</svg>",
            escaped(&self.y_label)
        ));
        svg
    }
}

/// Without the digits that arithmetic has added.
fn rounded(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[f64]) -> Curve {
        let sample = |(place, &value): (usize, &f64)| Sample { x: 10f64.powi(place as i32 - 3), value, mean: value };
        Curve {
            title: "a < b".to_owned(),
            subtitle: String::new(),
            x_label: "rate".to_owned(),
            y_label: "loss".to_owned(),
            samples: values.iter().enumerate().map(sample).collect(),
            mark: Some((1e-2, "here".to_owned())),
        }
    }

    #[test]
    fn the_picture_has_its_axes_its_lines_and_its_mark() {
        let svg = curve(&[4.0, 3.0, 2.0, 9.0]).svg();
        for part in ["a &lt; b", ">1e-3<", ">1e0<", ">2<", ">3<", ">4<", ">here<", ">rate<", ">loss<"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(!svg.contains(">9<"), "what is beyond the upper edge has no line");
    }

    #[test]
    fn a_picture_of_little_is_still_one() {
        for values in [&[][..], &[4.0], &[4.0, 4.0], &[4.0, f64::INFINITY]] {
            let svg = curve(values).svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{values:?}: {svg}");
        }
    }

    #[test]
    fn lines_are_at_round_values() {
        let frame = |low, high| Frame { low: [0.0, low], high: [1.0, high] };
        assert_eq!(frame(1.9, 4.3).lines(), [2.0, 2.5, 3.0, 3.5, 4.0]);
        assert_eq!(frame(0.0, 12.0).lines(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    }
}

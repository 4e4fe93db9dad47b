//! Heat maps below each other as one SVG: the same columns in each, rows, a scale and a legend of its own.

use std::fmt::Write as _;

/// What colours mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From 0, dark blue, to 1, yellow.
    Share,
    /// From minus this, blue, through 0, white, to this, orange.
    Signed(f32),
    /// The same, where values beyond are drawn as the ends.
    Clipped(f32),
}

/// One heat map.
#[derive(Clone, Debug)]
pub(crate) struct HeatMap {
    pub(crate) title: String,
    pub(crate) scale: Scale,
    /// The names of the rows.
    pub(crate) rows: Vec<String>,
    /// By row and column.
    pub(crate) values: Vec<Vec<f32>>,
}

/// What all heat maps of a picture share.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// The characters under the columns.
    pub(crate) columns: Vec<char>,
    pub(crate) maps: Vec<HeatMap>,
}

/// Colours between the ends of a scale.
const LEVELS: usize = 21;
const CELL_WIDTH: usize = 14;
const CELL_HEIGHT: usize = 9;
const LEFT: usize = 48;
const RIGHT: usize = 16;
/// The title and what is below it.
const TOP: usize = 52;
/// The line above a heat map, with its title and legend.
const HEADING: usize = 26;
/// The characters below it.
const FOOT: usize = 30;
/// Room for the longest line beside a legend.
const MIN_WIDTH: usize = 860;
const SWATCH: usize = 6;

/// The colours of [`Scale::Share`]: cividis (Nuñez et al. 2018), which colour-blind eyes see as others do.
const SEQUENTIAL: &[[u8; 3]] = &[
    [0x00, 0x20, 0x4d],
    [0x31, 0x44, 0x6b],
    [0x66, 0x69, 0x70],
    [0x95, 0x8f, 0x78],
    [0xcb, 0xba, 0x69],
    [0xff, 0xea, 0x46],
];
/// Those of the others: blue and orange, which no common colour blindness confuses.
const DIVERGING: &[[u8; 3]] =
    &[[0x0b, 0x4f, 0x96], [0x74, 0xa9, 0xd8], [0xf7, 0xf7, 0xf7], [0xf2, 0xa5, 0x5c], [0x9a, 0x4a, 0x00]];

/// Light and dark ground, as the reader has it.
pub(crate) const STYLE: &str = "text{fill:#24292f;font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace}\
    .ground{fill:#fff}.faint{fill:#57606a}.frame{fill:none;stroke:#8c959f}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#0d1117}.faint{fill:#9198a1}.frame{stroke:#656c76}}";

impl Scale {
    fn level(self, value: f32) -> usize {
        let share = match self {
            Self::Share => value,
            Self::Signed(end) | Self::Clipped(end) => 0.5 + 0.5 * value / end,
        };
        (share.clamp(0.0, 1.0) * (LEVELS - 1) as f32).round() as usize
    }

    /// The colour of a value.
    pub(crate) fn rgb(self, value: f32) -> [u8; 3] {
        self.rgb_of_level(self.level(value))
    }

    fn colour(self, level: usize) -> String {
        let [red, green, blue] = self.rgb_of_level(level);
        format!("#{red:02x}{green:02x}{blue:02x}")
    }

    fn rgb_of_level(self, level: usize) -> [u8; 3] {
        let stops = if self == Self::Share { SEQUENTIAL } else { DIVERGING };
        let position = level * (stops.len() - 1);
        let below = (position / (LEVELS - 1)).min(stops.len() - 2);
        let part = position - below * (LEVELS - 1);
        let mix = |channel: usize| {
            let [from, to] = [below, below + 1].map(|stop| usize::from(stops[stop][channel]));
            ((from * (LEVELS - 1 - part) + to * part + (LEVELS - 1) / 2) / (LEVELS - 1)) as u8
        };
        [mix(0), mix(1), mix(2)]
    }

    /// What stands at the ends of the legend.
    fn ends(self) -> [String; 2] {
        match self {
            Self::Share => ["0".to_owned(), "1".to_owned()],
            Self::Signed(end) => [format!("−{end}"), format!("{end}")],
            Self::Clipped(end) => [format!("≤ −{end:.1}"), format!("≥ {end:.1}")],
        }
    }
}

impl Picture {
    /// The file: the same picture gives the same bytes.
    pub(crate) fn svg(&self) -> String {
        let map_width = self.columns.len() * CELL_WIDTH;
        let width = (LEFT + map_width + RIGHT).max(MIN_WIDTH);
        let height = TOP + self.maps.iter().map(|map| HEADING + map.height() + FOOT).sum::<usize>();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n\
             <text class=\"faint\" x=\"{LEFT}\" y=\"42\" font-size=\"11\">{subtitle}</text>\n",
            title = escaped(&self.title),
            subtitle = escaped(&self.subtitle),
        );
        let mut top = TOP;
        // Maps of the same rows, which come one after another, share what stands beside and below them.
        let mut axes = 0;
        for (index, map) in self.maps.iter().enumerate() {
            let above = index.checked_sub(1).map(|index| &self.maps[index].rows);
            if above != Some(&map.rows) {
                axes += 1;
                self.axes(&mut svg, axes, map);
            }
            write(&mut svg, format_args!("<g transform=\"translate({LEFT} {})\">\n", top + HEADING));
            write(&mut svg, format_args!("<text y=\"-9\" font-size=\"13\">{}</text>\n", escaped(&map.title)));
            map.legend(&mut svg, width - LEFT - RIGHT);
            map.cells(&mut svg, self.columns.len());
            write(
                &mut svg,
                format_args!(
                    "<rect class=\"frame\" x=\"-.5\" y=\"-.5\" width=\"{}\" height=\"{}\"/>\n",
                    map_width + 1,
                    map.height() + 1
                ),
            );
            write(&mut svg, format_args!("<use href=\"#{}\"/>\n</g>\n", axes_name(axes)));
            top += HEADING + map.height() + FOOT;
        }
        svg += "</svg>\n";
        svg
    }

    /// The characters below a heat map and the names of the rows beside it, to be used by name.
    fn axes(&self, svg: &mut String, number: usize, map: &HeatMap) {
        let height = map.height();
        write(svg, format_args!("<defs><g id=\"{}\">\n<g font-size=\"12\" text-anchor=\"middle\">", axes_name(number)));
        for (column, &ch) in self.columns.iter().enumerate() {
            let (x, y) = (column * CELL_WIDTH + CELL_WIDTH / 2, height + 14);
            let (class, shown) = shown(ch);
            write(svg, format_args!("<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escaped(&shown.to_string())));
        }
        svg.push_str("</g>\n<g class=\"faint\" font-size=\"8\" text-anchor=\"end\">");
        for (row, name) in map.rows.iter().enumerate() {
            let y = row * CELL_HEIGHT + CELL_HEIGHT - 2;
            write(svg, format_args!("<text class=\"faint\" x=\"-5\" y=\"{y}\">{}</text>", escaped(name)));
        }
        write(
            svg,
            format_args!(
                "</g>\n<text class=\"faint\" font-size=\"9\" text-anchor=\"middle\" transform=\"translate(-34 {}) rotate(-90)\">unit</text>\n</g></defs>\n",
                height / 2
            ),
        );
    }
}

fn axes_name(number: usize) -> String {
    if number == 1 { "axes".to_owned() } else { format!("axes-{number}") }
}

impl HeatMap {
    fn height(&self) -> usize {
        self.rows.len() * CELL_HEIGHT
    }

    /// The scale, above the right end.
    fn legend(&self, svg: &mut String, right: usize) {
        let [low, high] = self.scale.ends();
        let high_width = 8 * high.chars().count() + 4;
        let bar = right - high_width - LEVELS * SWATCH;
        write(
            svg,
            format_args!(
                "<text class=\"faint\" x=\"{}\" y=\"-9\" font-size=\"11\" text-anchor=\"end\">{low}</text>",
                bar - 5
            ),
        );
        for level in 0..LEVELS {
            let x = bar + level * SWATCH;
            let colour = self.scale.colour(level);
            write(svg, format_args!("<rect x=\"{x}\" y=\"-18\" width=\"{SWATCH}\" height=\"10\" fill=\"{colour}\"/>"));
        }
        let x = bar + LEVELS * SWATCH + 5;
        write(svg, format_args!("<text class=\"faint\" x=\"{x}\" y=\"-9\" font-size=\"11\">{high}</text>\n"));
    }

    /// One path a colour, with a stroke as high as a cell for each run of cells in a row; the most frequent colour is the ground.
    fn cells(&self, svg: &mut String, columns: usize) {
        let rows = self.rows.len();
        let mut paths = vec![String::new(); LEVELS];
        let mut counts = [0; LEVELS];
        for (row, values) in self.values.iter().enumerate() {
            let levels: Vec<usize> = values.iter().map(|&value| self.scale.level(value)).collect();
            let mut column = 0;
            for run in levels.chunk_by(|a, b| a == b) {
                write(&mut paths[run[0]], format_args!("M{column} {row}h{}", run.len()));
                counts[run[0]] += 1;
                column += run.len();
            }
        }
        let ground = (0..LEVELS).max_by_key(|&level| (counts[level], level)).expect("there are levels");
        write(
            svg,
            format_args!(
                "<g transform=\"scale({CELL_WIDTH} {CELL_HEIGHT}) translate(0 .5)\" fill=\"none\" shape-rendering=\"crispEdges\">\n\
                 <rect y=\"-.5\" width=\"{columns}\" height=\"{rows}\" fill=\"{}\"/>\n",
                self.scale.colour(ground)
            ),
        );
        for (level, path) in paths.iter().enumerate() {
            if level != ground && !path.is_empty() {
                write(svg, format_args!("<path stroke=\"{}\" d=\"{path}\"/>\n", self.scale.colour(level)));
            }
        }
        svg.push_str("</g>\n");
    }
}

fn write(to: &mut String, what: std::fmt::Arguments<'_>) {
    to.write_fmt(what).expect("a string takes all that is written to it");
}

/// A character as it stands under its column: what cannot be seen by a sign, in a fainter colour.
fn shown(ch: char) -> (&'static str, char) {
    const FAINT: &str = " class=\"faint\"";
    match ch {
        '\n' => (FAINT, '↵'),
        '\t' => (FAINT, '⇥'),
        ' ' => (FAINT, '␣'),
        ch if ch.is_control() || ch.is_whitespace() || matches!(ch, '\u{fffe}' | '\u{ffff}') => (FAINT, '�'),
        ch => ("", ch),
    }
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_in_its_colours_and_zero_is_white() {
        assert_eq!(
            [0.0, 1.0, 7.0].map(|value| Scale::Share.colour(Scale::Share.level(value))),
            ["#00204d", "#ffea46", "#ffea46"]
        );
        let signed = Scale::Signed(2.0);
        assert_eq!([-2.0, 0.0, 2.0].map(|value| signed.colour(signed.level(value))), ["#0b4f96", "#f7f7f7", "#9a4a00"]);
        assert_eq!(Scale::Clipped(2.0).ends(), ["≤ −2.0", "≥ 2.0"]);
    }

    #[test]
    fn cells_of_one_colour_beside_each_other_are_one_stroke() {
        let map = HeatMap {
            title: "a".to_owned(),
            scale: Scale::Share,
            rows: ["0", "1"].map(str::to_owned).to_vec(),
            values: vec![vec![0.0, 1.0, 1.0], vec![0.0, 0.0, 0.0]],
        };
        let mut svg = String::new();
        map.cells(&mut svg, 3);
        assert!(svg.contains("<rect y=\"-.5\" width=\"3\" height=\"2\" fill=\"#00204d\"/>"), "{svg}");
        assert!(svg.contains("<path stroke=\"#ffea46\" d=\"M1 0h2\"/>"), "{svg}");
    }

    fn heat_map(title: &str, rows: &[&str], columns: usize) -> HeatMap {
        HeatMap {
            title: title.to_owned(),
            scale: Scale::Share,
            rows: rows.iter().copied().map(str::to_owned).collect(),
            values: vec![vec![0.5; columns]; rows.len()],
        }
    }

    #[test]
    fn heat_maps_of_other_rows_have_axes_of_their_own() {
        let picture = Picture {
            title: "a".to_owned(),
            subtitle: String::new(),
            columns: vec!['a'],
            maps: vec![heat_map("b", &["1", "2"], 1), heat_map("c", &["1", "2"], 1), heat_map("d", &["3"], 1)],
        };
        let svg = picture.svg();
        let count = |part: &str| svg.matches(part).count();
        assert_eq!([count("id=\"axes"), count("#axes\""), count("#axes-2\"")], [2, 2, 1], "{svg}");
        // 52 for the title; each map has 56 beside its rows.
        assert!(svg.contains(&format!("height=\"{}\"", 52 + 3 * 56 + 5 * 9)), "{svg}");
        assert!(svg.contains(&format!("translate(48 {})", 52 + 2 * (56 + 18) + 26)), "{svg}");
    }

    #[test]
    fn what_xml_keeps_for_itself_is_escaped_and_what_cannot_be_seen_has_a_sign() {
        let map = heat_map("c > 0", &["0"], 4);
        let picture = Picture {
            title: "a & b".to_owned(),
            subtitle: String::new(),
            columns: vec!['\n', '<', ' ', '\u{1}'],
            maps: vec![map],
        };
        let svg = picture.svg();
        for part in ["a &amp; b", "c &gt; 0", ">↵<", ">&lt;<", ">␣<", ">�<"] {
            assert!(svg.contains(part), "{part}");
        }
    }
}

//! Plots of records, as SVG: achieved against the roofline, and against other programs.

mod peers;
mod roofline;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use plotters::prelude::RGBColor;

use super::record::{PROGRAM, Record, Regime};

const FONT: &str = "sans-serif";

/// Colours that people with any colour vision can tell apart, ours first (Okabe and Ito, "Color Universal Design").
const COLOURS: [RGBColor; 5] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// The records of one regime, with cases and programs in the order in which they first appear, ours first.
struct Series<'a> {
    regime: Regime,
    cases: Vec<&'a str>,
    programs: Vec<&'a str>,
    records: Vec<&'a Record>,
}

/// Writes the plots that the records allow into a folder, and returns the files: `roofline-REGIME.svg` for each regime
/// and, where another program has records too, `peers-REGIME.svg`. What only moves bytes has no place in them.
///
/// # Errors
/// When there are no records of what computes, or a file cannot be written.
pub fn draw(folder: &Path, records: &[Record]) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(records.iter().any(computes), "there are no records to plot");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut files = Vec::new();
    for regime in [Regime::Sustained, Regime::Burst] {
        let series = Series::of(regime, records);
        if series.records.is_empty() {
            continue;
        }
        let mut write = |kind: &str, svg: String| {
            let file = folder.join(format!("{kind}-{}.svg", regime.name()));
            fs::write(&file, svg).with_context(|| file.display().to_string())?;
            files.push(file);
            anyhow::Ok(())
        };
        write("roofline", roofline::svg(&series).context("the roofline")?)?;
        if series.has_comparison() {
            write("peers", peers::svg(&series).context("the comparison")?)?;
        }
    }
    Ok(files)
}

fn computes(record: &Record) -> bool {
    record.tflops > 0.0
}

impl<'a> Series<'a> {
    fn of(regime: Regime, records: &'a [Record]) -> Self {
        let records: Vec<&Record> =
            records.iter().filter(|record| computes(record) && record.regime == regime).collect();
        let mut cases: Vec<&str> = Vec::new();
        let mut programs: Vec<&str> = Vec::new();
        for record in &records {
            if !cases.contains(&record.name.as_str()) {
                cases.push(&record.name);
            }
            if !programs.contains(&record.program.as_str()) {
                programs.push(&record.program);
            }
        }
        programs.sort_by_key(|&program| program != PROGRAM);
        Self { regime, cases, programs, records }
    }

    fn record(&self, case: &str, program: &str) -> Option<&'a Record> {
        self.records.iter().find(|record| record.name == case && record.program == program).copied()
    }

    /// How many times as long as ours the other program takes.
    fn ratio(&self, case: &str, program: &str) -> Option<f64> {
        Some(self.record(case, program)?.us / self.record(case, PROGRAM)?.us)
    }

    /// Programs other than ours.
    fn peers(&self) -> impl Iterator<Item = &'a str> {
        self.programs.iter().copied().filter(|&program| program != PROGRAM)
    }

    fn has_comparison(&self) -> bool {
        self.cases.iter().any(|case| self.peers().any(|peer| self.ratio(case, peer).is_some()))
    }

    fn colour(&self, program: &str) -> RGBColor {
        let index = self.programs.iter().position(|&other| other == program).unwrap_or(0);
        COLOURS[index % COLOURS.len()]
    }

    /// The GPU of the first record, which has to do for all.
    fn device(&self) -> &'a str {
        self.records.first().map_or("", |record| &record.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&str, f64, f64, f64); 3] = [
        ("dense-b128-h128-q1-k4096", 250.0, 584.1, 2559.0),
        ("dense-b128-h16-q1-k8192 <&>", 310.0, 117.8, 3912.0),
        ("dense-b1-h128-q1-k65536", 60.0, 304.2, 1259.0),
    ];

    fn records(program: &str, factor: f64) -> Vec<Record> {
        let record = |&(name, us, tflops, gbps): &(&str, f64, f64, f64)| Record {
            name: name.into(),
            program: program.into(),
            op: "dense_decode".into(),
            regime: Regime::Sustained,
            us: us * factor,
            tflops: tflops / factor,
            gbps: gbps / factor,
            tensor_percent: None,
            bandwidth_percent: None,
            copy_percent: None,
            spread: [us, us],
            rounds: 1,
            device: "NVIDIA H200".into(),
            driver: None,
        };
        CASES.iter().map(record).collect()
    }

    /// Text elements and numbers of circles and of filled rectangles of a plot.
    fn parts(file: &Path) -> (Vec<String>, usize, usize) {
        let text = fs::read_to_string(file).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let named = |name: &'static str| {
            document.descendants().filter(move |node| node.tag_name().name() == name).collect::<Vec<_>>()
        };
        assert_eq!(document.root_element().tag_name().name(), "svg");
        let texts =
            named("text").into_iter().filter_map(|node| node.text()).map(|text| text.trim().to_owned());
        (texts.collect(), named("circle").len(), named("rect").len())
    }

    #[test]
    fn plots_are_svg_with_all_cases() {
        let folder = std::env::temp_dir().join(format!("oximla-plots-{}", std::process::id()));
        let both = [records("another", 1.1), records(PROGRAM, 1.0)].concat();
        let files = draw(&folder, &both).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["roofline-sustained.svg", "peers-sustained.svg"]);
        let (roofline, circles, _) = parts(&files[0]);
        let (peers, _, rectangles) = parts(&files[1]);
        for (name, ..) in CASES {
            assert!(roofline.iter().any(|text| text.ends_with(name)), "{name} in {roofline:?}");
            assert!(peers.iter().any(|text| text.ends_with(name)), "{name} in {peers:?}");
        }
        // A dot of each program a case, and one in the legend.
        assert_eq!(circles, 2 * (CASES.len() + 1));
        let (_, circles, background) = parts(&draw(&folder, &records(PROGRAM, 1.0)).unwrap()[0]);
        assert_eq!(circles, CASES.len() + 1);
        assert!(rectangles >= CASES.len() + background, "a bar a case: {rectangles}, {background}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_comparison_needs_a_case_of_both() {
        let folder = std::env::temp_dir().join(format!("oximla-no-plots-{}", std::process::id()));
        let apart = [records("another", 1.0)[..1].to_vec(), records(PROGRAM, 1.0)[1..].to_vec()].concat();
        assert_eq!(draw(&folder, &apart).unwrap().len(), 1);
        assert!(draw(&folder, &[]).is_err());
        let moves_bytes = |record: Record| Record { tflops: 0.0, ..record };
        let moving: Vec<Record> = records(PROGRAM, 1.0).into_iter().map(moves_bytes).collect();
        assert!(draw(&folder, &moving).is_err());
        assert_eq!(draw(&folder, &[moving, records(PROGRAM, 1.0)].concat()).unwrap().len(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}

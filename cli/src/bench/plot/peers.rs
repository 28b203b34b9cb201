//! How much longer than ours other programs take: bars, one a case and program.

use plotters::prelude::*;

use super::{FONT, Series};

const WIDTH: u32 = 1000;
/// Heights of a bar, of the gap between cases, and of all that is not bars.
const BAR: u32 = 14;
const GAP: u32 = 10;
const FRAME: u32 = 120;
const NAMES_WIDTH: u32 = 300;
/// How much longer than the longest bar the axis is: room for numbers and the legend.
const MARGIN: f64 = 1.35;

/// The plot: bars beyond the line at 1 are of cases in which we are faster.
pub fn svg(series: &Series<'_>) -> anyhow::Result<String> {
    let peers: Vec<&str> = series.peers().collect();
    let cases =
        series.cases.iter().filter(|case| peers.iter().any(|peer| series.ratio(case, peer).is_some()));
    let cases: Vec<&str> = cases.copied().collect();
    let height = cases.len() as u32 * (peers.len() as u32 * BAR + GAP) + FRAME;
    let all = cases.iter().flat_map(|case| peers.iter().filter_map(|peer| series.ratio(case, peer)));
    let longest = all.fold(1.0, f64::max) * MARGIN;

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let title = format!("Time of others by time of ours, {}, {}", series.device(), series.regime.name());
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(NAMES_WIDTH)
            .build_cartesian_2d(0.0..longest, (0..cases.len().saturating_sub(1)).into_segmented())?;
        // The first case stands on top. Ranges of segments include their ends.
        let name = |segment: &SegmentValue<usize>| match segment {
            SegmentValue::CenterOf(place) if *place < cases.len() => {
                cases[cases.len() - 1 - place].to_owned()
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(cases.len())
            .y_label_formatter(&name)
            .x_desc("more than 1: ours is faster")
            .label_style((FONT, 13))
            .draw()?;

        let plotting = chart.plotting_area().clone();
        let slot = BAR as i32;
        let shift = -(peers.len() as i32 * slot) / 2;
        for (peer, index) in peers.iter().zip(0..) {
            let colour = series.colour(peer);
            let bars = cases.iter().rev().enumerate().filter_map(|(place, case)| {
                let ratio = series.ratio(case, peer)?;
                let (start, _) = plotting.map_coordinate(&(0.0, SegmentValue::CenterOf(place)));
                let (end, _) = plotting.map_coordinate(&(ratio, SegmentValue::CenterOf(place)));
                let top = shift + index * slot;
                let bar = Rectangle::new([(0, top), (end - start, top + slot - 2)], colour.filled());
                let label = Text::new(format!("{ratio:.2}"), (end - start + 3, top + 1), (FONT, 11));
                Some(EmptyElement::at((0.0, SegmentValue::CenterOf(place))) + bar + label)
            });
            chart
                .draw_series(bars)?
                .label(*peer)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        let ends = [SegmentValue::Exact(0), SegmentValue::Exact(cases.len())];
        chart.draw_series(LineSeries::new(ends.map(|end| (1.0, end)), BLACK.stroke_width(2)))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .label_font((FONT, 14))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

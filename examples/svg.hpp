#pragma once
// Heatmaps and line charts as inline SVG, without scripts or network access. Colours are classes and
// variables of the page's style (page.hpp), so that a picture is readable on light and dark ground.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace svg {

inline std::string number(double x, const char* format = "%.4g") {
  char text[48];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

// Text for content and attributes of HTML. Control characters are none there.
inline std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) switch (c) {
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '&':
        safe += "&amp;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c;
    }
  return safe;
}

// Class of a share in [0, 1] of the sequential scale: .h0 to .h16.
inline constexpr int heat_levels = 17;
inline int heat_level(double share) {
  const double x = std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0);
  return static_cast<int>(std::lround(x * (heat_levels - 1)));
}
inline std::string heat(double share) { return "h" + std::to_string(heat_level(share)); }
// Colours of lines: .s0 to .s5.
inline constexpr std::size_t line_colours = 6;
inline std::string line_class(std::size_t i) { return "s" + std::to_string(i % line_colours); }

using Points = std::vector<std::pair<double, double>>;

class Drawing {
 public:
  // style: classes of the picture.
  Drawing(double width, double height, std::string_view title, std::string_view label,
          std::string_view style = {}) {
    add("svg", {{"viewBox", "0 0 " + number(width) + " " + number(height)},
                {"role", "img"},
                {"aria-label", std::string(label)},
                {"class", std::string(style)}});
    write(0, 16, title, "start", "title");
  }
  // tip: the tooltip.
  void box(double x, double y, double width, double height, std::string_view style,
           std::string_view tip = {}) {
    add("rect",
        {{"x", place(x)},
         {"y", place(y)},
         {"width", place(width)},
         {"height", place(height)},
         {"class", std::string(style)}},
        tip.empty() ? "" : "<title>" + escaped(tip) + "</title>", true);
  }
  void line(double x1, double y1, double x2, double y2, std::string_view style) {
    add("line",
        {{"x1", place(x1)},
         {"y1", place(y1)},
         {"x2", place(x2)},
         {"y2", place(y2)},
         {"class", std::string(style)}},
        "", true);
  }
  void curve(const Points& points, std::string_view style) { poly("polyline", points, style); }
  void area(const Points& points, std::string_view style) { poly("polygon", points, style); }
  void dot(double x, double y, std::string_view style) {
    add("circle", {{"cx", place(x)}, {"cy", place(y)}, {"r", "2.6"}, {"class", std::string(style)}}, "",
        true);
  }
  // Horizontal strokes of one colour: x, y and length of each, as many bytes as a number.
  void strokes(const std::vector<std::array<double, 3>>& all, double thickness, std::string_view style) {
    std::string path;
    for (const auto& [x, y, length] : all) {
      ((path += 'M') += place(x)) += ' ';
      ((path += place(y)) += 'h') += place(length);
    }
    add("path", {{"class", std::string(style)}, {"stroke-width", place(thickness)}, {"d", path}}, "", true);
  }
  // anchor: start, middle or end.
  void write(double x, double y, std::string_view words, const char* anchor = "start",
             std::string_view style = {}) {
    add("text", {{"x", place(x)}, {"y", place(y)}, {"text-anchor", anchor}, {"class", std::string(style)}},
        escaped(words), true);
  }
  std::string str() const { return text_ + "</svg>\n"; }

 private:
  static std::string place(double x) { return number(std::round(10 * x) / 10, "%.5g"); }
  void poly(std::string_view name, const Points& points, std::string_view style) {
    std::string path;
    for (const auto& [x, y] : points) path += place(x) + "," + place(y) + " ";
    add(name, {{"class", std::string(style)}, {"points", path}}, "", true);
  }
  void add(std::string_view name, const std::vector<std::pair<std::string_view, std::string>>& attributes,
           std::string_view content = {}, bool closed = false) {
    (text_ += "<") += name;
    for (const auto& [key, value] : attributes) {
      if (value.empty() || (key == "text-anchor" && value == "start")) continue;
      (((text_ += " ") += key) += "=\"") += escaped(value);
      text_ += '"';
    }
    text_ += ">";
    if (closed) (((text_ += content) += "</") += name) += ">\n";
  }
  std::string text_;
};

// A table of numbers as colours.
struct Heatmap {
  std::string title, row_name, col_name;
  std::vector<std::string> rows{}, cols{};  // an empty name: no label
  std::vector<double> value{};              // [rows, cols]
  double top = 1;                           // the darkest colour
  double mark = 0;                          // a mark in the legend, and its name
  std::string mark_name{};
  const char* format = "%.0f";  // of values
  std::string unit{};
  bool numbers = false;                   // in the cells
  bool mute_diagonal = false;             // the diagonal has other values: no colour
  std::vector<std::string> from{}, to{};  // of all columns, what each stands for; empty: cols
  double cell_height = 26;
  double left = 72;  // for names of rows
};

inline std::string draw(const Heatmap& h) {
  constexpr double width = 400, right = 14, top = 48;
  const std::size_t rows = h.rows.size(), cols = h.cols.size();
  const double left = h.left,
               cell = (width - left - right) / static_cast<double>(std::max<std::size_t>(cols, 1));
  const double bottom = top + h.cell_height * static_cast<double>(rows), gap = h.numbers ? 1.5 : 0;
  Drawing d(width, bottom + 92, h.title, h.title + ": " + h.row_name + " by " + h.col_name);
  d.write(left - 8, top - 8, h.row_name, "end", "soft");
  struct Hit {
    double x, y, width, height;
    std::string tip;
  };
  std::vector<Hit> hits;  // above all colours, as numbers are
  struct Number {
    double x, y;
    std::string text, style;
  };
  std::vector<Number> numbers;
  std::array<std::vector<std::array<double, 3>>, heat_levels> strokes{};
  double thickness = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const double y = top + h.cell_height * static_cast<double>(r);
    d.write(left - 8, y + h.cell_height / 2 + 4, h.rows[r], "end");
    const double height = h.cell_height - std::min(2.0, h.cell_height / 8);
    const auto x_of = [&](std::size_t c) { return left + cell * static_cast<double>(c); };
    const auto value = [&](std::size_t c) { return h.value[r * cols + c]; };
    const auto from_of = [&](std::size_t c) { return h.from.empty() ? h.cols[c] : h.from[c]; };
    const auto to_of = [&](std::size_t c) { return h.to.empty() ? h.cols[c] : h.to[c]; };
    thickness = height;
    const auto level = [&](std::size_t c) { return heat_level(value(c) / h.top); };
    if (h.numbers) {  // which need no tooltips
      for (std::size_t c = 0; c < cols; ++c) {
        const bool muted = h.mute_diagonal && r == c;
        if (muted) d.box(x_of(c), y, cell - gap, height, "muted");
        if (!muted)
          strokes[static_cast<std::size_t>(level(c))].push_back({x_of(c), y + height / 2, cell - gap});
        numbers.push_back({x_of(c) + (cell - gap) / 2, y + h.cell_height / 2 + 4, number(value(c), h.format),
                           muted ? "soft" : "t" + std::to_string(level(c))});
      }
      continue;
    }
    for (std::size_t c = 0, next; c < cols; c = next) {  // neighbours of one colour are one stroke
      for (next = c + 1; next < cols && level(next) == level(c);) ++next;
      strokes[static_cast<std::size_t>(level(c))].push_back(
          {x_of(c), y + height / 2, cell * static_cast<double>(next - c) + 0.3});
    }
    constexpr std::size_t parts = 6;
    for (std::size_t p = 0; p < std::min(parts, cols); ++p) {
      const std::size_t from = p * cols / std::min(parts, cols), to = (p + 1) * cols / std::min(parts, cols);
      double mean = 0;
      for (std::size_t c = from; c < to; ++c) mean += value(c) / static_cast<double>(to - from);
      std::string tip = h.row_name + " " + h.rows[r];
      if (!from_of(from).empty()) tip += ", " + h.col_name + " " + from_of(from);
      if (!from_of(from).empty() && to_of(to - 1) != from_of(from)) tip += " to " + to_of(to - 1);
      hits.push_back(
          {x_of(from), y, x_of(to) - x_of(from), height, tip + ": " + number(mean, "%.3g") + h.unit});
    }
  }
  for (std::size_t l = 0; l < strokes.size(); ++l)
    if (!strokes[l].empty()) d.strokes(strokes[l], thickness, "heat h" + std::to_string(l));
  for (const auto& n : numbers) d.write(n.x, n.y, n.text, "middle", n.style);
  for (const auto& hit : hits) d.box(hit.x, hit.y, hit.width, hit.height, "hit", hit.tip);
  for (std::size_t c = 0; c < cols; ++c)
    if (!h.cols[c].empty())
      d.write(left + cell * (static_cast<double>(c) + 0.5), bottom + 16, h.cols[c], "middle");
  d.write(left + (width - left - right) / 2, bottom + 36, h.col_name, "middle", "soft");

  constexpr double bar = 110;  // the legend
  const double y = bottom + 54;
  for (int i = 0; i < heat_levels; i += 2)
    d.box(left + bar * i / heat_levels, y, bar * (i + 1 < heat_levels ? 2 : 1) / heat_levels + 0.3, 10,
          "h" + std::to_string(i));
  d.write(left, y + 26, "0" + h.unit);
  d.write(left + bar, y + 26, number(h.top, h.format) + h.unit, "end");
  if (h.mark > 0) {
    const double x = left + bar * std::min(1.0, h.mark / h.top);
    d.line(x, y - 4, x, y + 14, "mark");
    d.line(left + bar + 20, y - 2, left + bar + 20, y + 12, "mark");
    d.write(left + bar + 27, y + 9, h.mark_name, "start", "marked");
  }
  return d.str();
}

struct Series {
  std::string name;  // empty: that of the chart, which stands in its title
  std::vector<double> x{}, y{};
  std::size_t colour = 0;
  enum class Style { line, thin, dashed, dotted } style = Style::line;  // dotted: with a dot at each point
  std::vector<double> low{}, high{};  // a band around the line; may be empty
};
// Values that are equally far apart, the last at `end`.
inline Series spread(std::string name, std::size_t colour, std::vector<double> y, double end) {
  Series s{std::move(name), {}, std::move(y), colour};
  for (std::size_t i = 0; i < s.y.size(); ++i)
    s.x.push_back(end * static_cast<double>(i + 1) / static_cast<double>(s.y.size()));
  return s;
}

struct Chart {
  std::string title, unit, x_name;
  double begin = 0, end = 1;  // of the x axis
  std::vector<Series> series{};
  std::vector<std::pair<double, std::string>> marks{};  // dashed lines, and their names
  double least = NAN, most = NAN;                       // the y axis has these values, too
  std::function<std::string(double)> text = [](double v) { return number(v); };
  double width = 400, height = 226;
  bool whole = false;  // the y axis has whole numbers only
  std::string style{};
};

// 1, 2 or 5 times a power of ten: `parts` of them, or fewer, fill `span`.
inline double round_step(double span, int parts) {
  const double raw = span / parts, power = std::pow(10, std::floor(std::log10(raw)));
  return power * (raw <= power ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
}

inline std::string draw(const Chart& c) {
  constexpr double left = 50, right = 14, bottom = 48, row = 19;
  // The unit is beside the title, or below it.
  const bool below =
      8.2 * static_cast<double>(c.title.size()) + 7 * static_cast<double>(c.unit.size()) > c.width;
  // the names of series, in rows
  std::vector<std::pair<double, double>> keys;
  double key = 0, top = below ? 55 : 38;
  bool named = false;
  for (const Series& s : c.series) {
    if (s.name.empty()) {
      keys.emplace_back(-1, 0);
      continue;
    }
    named = true;
    const double length = 34 + 7.3 * static_cast<double>(s.name.size());
    if (key > 0 && left + key + length > c.width) key = 0, top += row;
    keys.emplace_back(left + key, top - 4);
    key += length;
  }
  top += named ? 12 : -8;
  const double height = c.height + top - 50;

  double low = INFINITY, high = -INFINITY;
  const auto reach = [&](double v) {
    if (std::isfinite(v)) low = std::min(low, v), high = std::max(high, v);
  };
  for (const Series& s : c.series)
    for (const double v : s.y) reach(v);
  for (const auto& mark : c.marks) reach(mark.first);
  reach(c.least), reach(c.most);
  if (low > high) low = 0, high = 1;
  double tick =
      round_step(std::max(high - low, std::max(1e-12, 1e-3 * std::abs(high))), c.height > 300 ? 7 : 5);
  if (c.whole) tick = std::max(tick, 1.0);
  low = std::floor(low / tick + 1e-9) * tick;
  high = std::max(std::ceil(high / tick - 1e-9) * tick, low + tick);
  const double span = std::max(c.end - c.begin, 1e-9), plot = c.width - left - right;
  const auto x_of = [&](double x) { return left + plot * std::clamp((x - c.begin) / span, 0.0, 1.0); };
  const auto y_of = [&](double v) {
    return height - bottom - (height - top - bottom) * std::clamp((v - low) / (high - low), 0.0, 1.0);
  };

  Drawing d(c.width, height, c.title, c.title + ", " + c.unit, c.style);
  if (below)
    d.write(0, 33, c.unit, "start", "soft");
  else
    d.write(c.width - right, 16, c.unit, "end", "soft");
  for (int i = 0; i <= static_cast<int>(std::lround((high - low) / tick)); ++i) {
    const double v = low + i * tick;
    d.line(left, y_of(v), c.width - right, y_of(v), "rule");
    d.write(left - 6, y_of(v) + 4, c.text(std::abs(v) < tick / 100 ? 0 : v), "end");
  }
  const double x_tick = std::max(1.0, round_step(span, c.width > 600 ? 10 : 5));
  for (double x = std::ceil(c.begin / x_tick) * x_tick; x <= c.end + 1e-9 * span; x += x_tick)
    d.write(x_of(x), height - bottom + 17, number(x, "%.0f"), x_of(x) + 18 > c.width ? "end" : "middle");
  d.write(left + plot / 2, height - 8, c.x_name, "middle", "soft");

  for (const Series& s : c.series) {  // bands below all lines
    Points band;
    for (std::size_t i = 0; i < s.high.size(); ++i)
      if (std::isfinite(s.high[i])) band.emplace_back(x_of(s.x[i]), y_of(s.high[i]));
    for (std::size_t i = s.low.size(); i-- > 0;)
      if (std::isfinite(s.low[i])) band.emplace_back(x_of(s.x[i]), y_of(s.low[i]));
    if (band.size() > 2) d.area(band, "band " + line_class(s.colour));
  }
  for (const auto& [value, name] : c.marks) {
    d.line(left, y_of(value), c.width - right, y_of(value), "mark dashed");
    d.write(c.width - right, y_of(value) - 4, name, "end", "marked");
  }
  for (std::size_t i = 0; i < c.series.size(); ++i) {
    const Series& s = c.series[i];
    const std::string style = (s.style == Series::Style::dashed ? "curve dashed "
                               : s.style == Series::Style::thin ? "curve thin "
                                                                : "curve ") +
                              line_class(s.colour);
    Points points;
    const auto flush = [&] {  // a value that is not finite is a gap
      if (points.size() > 1) d.curve(points, style);
      if (s.style == Series::Style::dotted || points.size() == 1)
        for (const auto& [x, y] : points) d.dot(x, y, "dot " + line_class(s.colour));
      points.clear();
    };
    for (std::size_t t = 0; t < s.y.size(); ++t)
      if (std::isfinite(s.y[t]))
        points.emplace_back(x_of(s.x[t]), y_of(s.y[t]));
      else
        flush();
    flush();
    if (s.name.empty()) continue;
    const auto [x, y] = keys[i];
    d.curve({{x, y}, {x + 18, y}}, style);
    if (s.style == Series::Style::dotted) d.dot(x + 9, y, "dot " + line_class(s.colour));
    d.write(x + 24, y + 4, s.name);
  }

  constexpr int strips = 24;  // values on hover
  for (int i = 0; i < strips; ++i) {
    const double from = c.begin + span * i / strips, to = c.begin + span * (i + 1) / strips;
    std::string tip;
    for (const Series& s : c.series) {
      std::size_t last = s.x.size();
      for (std::size_t t = 0; t < s.x.size() && s.x[t] <= to + 1e-9 * span; ++t)
        if (s.x[t] > from || i == 0) last = t;
      if (last < s.x.size())
        tip +=
            "\n" + s.name + " " + c.text(s.y[last]) +
            (s.style == Series::Style::dotted ? " (" + c.x_name + " " + number(s.x[last], "%.0f") + ")" : "");
    }
    if (!tip.empty())
      d.box(x_of(from), top, plot / strips, height - top - bottom, "hit",
            c.x_name + " " + number(to, "%.0f") + tip);
  }
  return d.str();
}

// A wide picture for wide windows, and the usual one for narrow windows.
inline std::string draw_wide(Chart c) {
  const std::string narrow = (c.style = "narrow", draw(c));
  c.width = 900, c.height = 330, c.style = "wide";
  return draw(c) + narrow;
}

}  // namespace svg

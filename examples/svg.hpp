#pragma once
// Heatmaps and line charts as inline SVG, without scripts or network access.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace svg {

inline std::string number(double x, const char* format = "%.4g") {
  char text[32];
  std::snprintf(text, sizeof text, format, x);
  return text;
}
inline std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text)
    if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '&')
      safe += "&amp;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += c;
  return safe;
}

// Sequential scale by lightness only: readable for colour-blind viewers and in greyscale.
inline std::string colour(double share) {
  static constexpr int ramp[5][3] = {
      {245, 247, 250}, {186, 211, 228}, {105, 161, 198}, {38, 98, 148}, {10, 40, 82}};
  const double x = 4 * std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0);
  const int i = std::min(3, static_cast<int>(x));
  std::string text = "rgb(";
  for (int c = 0; c < 3; ++c)
    text += number(std::round(ramp[i][c] + (x - i) * (ramp[i + 1][c] - ramp[i][c]))) + (c < 2 ? "," : ")");
  return text;
}
// Of lines: distinguishable with any colour vision.
inline const char* line_colour(std::size_t i) {
  static constexpr const char* all[] = {"#1d5f99", "#c2570c", "#3d3d3d", "#7a5195"};
  return all[i % 4];
}
inline constexpr const char* mark_colour = "#b00020";

class Drawing {
 public:
  Drawing(double width, double height, const std::string& title) {
    add("svg",
        {{"viewBox", "0 0 " + number(width) + " " + number(height)}, {"role", "img"}, {"aria-label", title}});
    add("text", {{"x", "0"}, {"y", "16"}, {"class", "title"}}, title);
  }
  // `tip`: the tooltip.
  void box(double x, double y, double width, double height, const std::string& fill,
           const std::string& tip = {}) {
    add("rect",
        {{"x", number(x)},
         {"y", number(y)},
         {"width", number(width)},
         {"height", number(height)},
         {"fill", fill}},
        tip.empty() ? "" : "<title>" + escaped(tip) + "</title>", true);
  }
  void line(double x1, double y1, double x2, double y2, const char* style) {
    add("line",
        {{"x1", number(x1)}, {"y1", number(y1)}, {"x2", number(x2)}, {"y2", number(y2)}, {"class", style}},
        "");
  }
  void curve(const std::vector<std::pair<double, double>>& points, const std::string& stroke) {
    std::string path;
    for (const auto& [x, y] : points) path += number(x) + "," + number(y) + " ";
    add("polyline", {{"class", "curve"}, {"stroke", stroke}, {"points", path}}, "");
  }
  // anchor: start, middle or end.
  void write(double x, double y, const std::string& words, const char* anchor = "start",
             const char* fill = "#333") {
    add("text", {{"x", number(x)}, {"y", number(y)}, {"text-anchor", anchor}, {"fill", fill}}, words);
  }
  std::string str() const { return text_ + "</svg>\n"; }

 private:
  // An open element, or a closed one with text or markup as content.
  void add(const char* element, const std::vector<std::pair<const char*, std::string>>& attributes) {
    (text_ += '<') += element;
    for (const auto& [name, value] : attributes)
      ((((text_ += ' ') += name) += "=\"") += escaped(value)) += '"';
    text_ += ">\n";
  }
  void add(const char* element, const std::vector<std::pair<const char*, std::string>>& attributes,
           const std::string& content, bool markup = false) {
    add(element, attributes);
    text_.pop_back();
    ((text_ += markup ? content : escaped(content)) += "</") += element;
    text_ += ">\n";
  }
  std::string text_;
};

struct Heatmap {
  std::string title, row_name, col_name;
  std::vector<std::string> rows{}, cols{};  // labels; empty ones are omitted
  std::vector<double> value{};              // [rows, cols]
  double top = 1;                           // the value of the darkest colour
  double mark = 0;                          // a value to point out in the legend, and its name
  std::string mark_name{};
  const char* format = "%.0f";  // of values
  std::string unit{};
  bool numbers = false;        // in the cells
  bool mute_diagonal = false;  // the diagonal has other values: no colour
  double cell_height = 26;
};

inline std::string draw(const Heatmap& h) {
  constexpr double width = 480, left = 72, right = 14, top = 48;
  const std::size_t rows = h.rows.size(), cols = h.cols.size();
  const double cell = (width - left - right) / static_cast<double>(cols);
  const double bottom = top + h.cell_height * static_cast<double>(rows), gap = h.numbers ? 1.5 : 0;
  Drawing d(width, bottom + 92, h.title);
  d.write(left - 8, top - 8, h.row_name, "end", "#555");
  for (std::size_t r = 0; r < rows; ++r) {
    const double y = top + h.cell_height * static_cast<double>(r);
    d.write(left - 8, y + h.cell_height / 2 + 4, h.rows[r], "end");
    for (std::size_t c = 0; c < cols; ++c) {
      const double v = h.value[r * cols + c], x = left + cell * static_cast<double>(c);
      const bool muted = h.mute_diagonal && r == c;
      const std::string words = number(v, h.format);
      d.box(x, y, gap > 0 ? cell - gap : cell + 0.5, h.cell_height - 2, muted ? "#ececec" : colour(v / h.top),
            h.row_name + " " + h.rows[r] + (h.cols[c].empty() ? "" : ", " + h.col_name + " " + h.cols[c]) +
                ": " + number(v, "%.3g") + h.unit);
      if (h.numbers)
        d.write(x + (cell - gap) / 2, y + h.cell_height / 2 + 3, words, "middle",
                muted              ? "#666"
                : v / h.top > 0.55 ? "#fff"
                                   : "#222");
    }
  }
  for (std::size_t c = 0; c < cols; ++c)
    if (!h.cols[c].empty())
      d.write(left + cell * (static_cast<double>(c) + 0.5), bottom + 16, h.cols[c], "middle");
  d.write(left + (width - left - right) / 2, bottom + 36, h.col_name, "middle", "#555");

  constexpr double bar = 180, steps = 60;  // the legend
  const double y = bottom + 54;
  for (double i = 0; i < steps; ++i)
    d.box(left + bar * i / steps, y, bar / steps + 0.5, 10, colour((i + 0.5) / steps));
  d.write(left, y + 26, "0" + h.unit);
  d.write(left + bar, y + 26, number(h.top, h.format) + h.unit, "end");
  if (h.mark > 0) {
    const double x = left + bar * std::min(1.0, h.mark / h.top);
    d.line(x, y - 4, x, y + 14, "mark");
    d.line(left + bar + 24, y - 2, left + bar + 24, y + 12, "mark");
    d.write(left + bar + 31, y + 9, h.mark_name, "start", mark_colour);
  }
  return d.str();
}

struct Series {
  std::string name;
  std::vector<double> value{};  // equally far apart, the last at the chart's end
};
struct Chart {
  std::string title, unit, x_name;
  double end = 1;  // of the x axis, which begins with 0
  std::vector<Series> series{};
  double mark = NAN;  // a dashed line, and its name
  std::string mark_name{};
  double least = 0;  // the y axis begins here, or below
};

// 1, 2 or 5 times a power of ten: `parts` of them, or fewer, fill `span`.
inline double round_step(double span, int parts) {
  const double raw = span / parts, power = std::pow(10, std::floor(std::log10(raw)));
  return power * (raw <= power ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
}

inline std::string draw(const Chart& c) {
  constexpr double width = 480, height = 236, left = 44, right = 14, top = 54, bottom = 50;
  double low = c.least, high = c.least;
  auto reach = [&](double v) {
    if (std::isfinite(v)) low = std::min(low, v), high = std::max(high, v);
  };
  for (const Series& s : c.series)
    for (const double v : s.value) reach(v);
  reach(c.mark);
  const double tick = round_step(std::max(high - low, 1e-3), 5);
  low = std::floor(low / tick + 1e-9) * tick;
  high = std::max(std::ceil(high / tick - 1e-9) * tick, low + tick);
  auto x_of = [&](double x) { return left + (width - left - right) * x / c.end; };
  auto y_of = [&](double v) { return height - bottom - (height - top - bottom) * (v - low) / (high - low); };

  Drawing d(width, height, c.title + ", " + c.unit);
  for (double v = low; v < high + tick / 2; v += tick) {
    d.line(left, y_of(v), width - right, y_of(v), "grid");
    d.write(left - 6, y_of(v) + 4, number(std::abs(v) < tick / 100 ? 0 : v), "end");
  }
  for (int i = 0; i <= 4; ++i)
    d.write(x_of(c.end * i / 4), height - bottom + 18, number(c.end * i / 4, "%.0f"), "middle");
  d.write(left + (width - left - right) / 2, height - 10, c.x_name, "middle", "#555");
  double key = left;
  auto name = [&](const std::string& words) {
    d.write(key + 26, 38, words);
    key += 50 + 7 * static_cast<double>(words.size());
  };
  for (std::size_t i = 0; i < c.series.size(); ++i) {
    std::vector<std::pair<double, double>> points;
    const auto& value = c.series[i].value;
    for (std::size_t t = 0; t < value.size(); ++t)
      if (std::isfinite(value[t]))
        points.emplace_back(x_of(c.end * static_cast<double>(t + 1) / static_cast<double>(value.size())),
                            y_of(value[t]));
    d.curve(points, line_colour(i));
    d.curve({{key, 34}, {key + 20, 34}}, line_colour(i));
    name(c.series[i].name);
  }
  if (std::isfinite(c.mark)) {
    d.line(left, y_of(c.mark), width - right, y_of(c.mark), "mark dashed");
    d.line(key, 34, key + 20, 34, "mark dashed");
    name(c.mark_name);
  }
  return d.str();
}

}  // namespace svg

#pragma once
// Event files of TensorBoard: scalars of steps and evaluations, the load of each layer's experts as a
// histogram over their numbers, samples as text. The name of such a file must contain "tfevents".
// A file is a list of records:  u64 length | u32 masked crc of it | bytes | u32 masked crc of them
// with  masked = rotate_right(crc32c, 15) + 0xa282ead8,  little endian. The bytes are a protocol buffer,
// Event. Source: tensorflow/core/lib/io/record_writer.h, core/util/event.proto and
// core/framework/summary.proto.
#include <moegpt/io/crc32c.hpp>
#include <moegpt/run/appended_file.hpp>
#include <moegpt/run/records.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace tensorboard {

static_assert(std::endian::native == std::endian::little, "event files are little endian");

inline std::uint32_t masked(std::uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

template <class Number>
void append_bytes(std::string& to, Number x) {
  char bytes[sizeof x];
  std::memcpy(bytes, &x, sizeof x);
  to.append(bytes, sizeof x);
}
template <class Number>
Number number_at(std::string_view bytes, std::size_t at) {
  Number x;
  std::memcpy(&x, bytes.data() + at, sizeof x);
  return x;
}

inline void append_record(std::string& to, std::string_view bytes) {
  const std::size_t begin = to.size();
  append_bytes(to, std::uint64_t{bytes.size()});
  append_bytes(to, masked(crc32c_of(std::string_view(to).substr(begin))));
  to += bytes;
  append_bytes(to, masked(crc32c_of(bytes)));
}

// A message of a protocol buffer, field by field.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) { return tag(field, 0), varint(value), *this; }
  Message& real(int field, double value) { return tag(field, 1), append_bytes(text_, value), *this; }
  Message& real(int field, float value) { return tag(field, 5), append_bytes(text_, value), *this; }
  Message& bytes(int field, std::string_view value) {
    tag(field, 2), varint(value.size());
    text_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.text_); }
  Message& reals(int field, std::span<const double> values) {
    tag(field, 2), varint(8 * values.size());
    for (const double value : values) append_bytes(text_, value);
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  void tag(int field, int wire_type) {
    varint(static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(wire_type));
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

// The summary of an event: named values.
class Summary {
 public:
  void scalar(const std::string& name, double value) {
    add(Message().bytes(1, name).real(2, static_cast<float>(value)));
  }
  // count [n]: how often the number i occurred.
  void histogram(const std::string& name, std::span<const Index> count) {
    double total = 0, sum = 0, squares = 0;
    std::vector<double> limits, counts;
    for (const Index c : count) {
      const auto i = static_cast<double>(limits.size()), n = static_cast<double>(c);
      total += n, sum += n * i, squares += n * i * i;
      limits.push_back(i + 0.5);
      counts.push_back(n);
    }
    add(Message().bytes(1, name).message(5, Message()
                                                .real(1, -0.5)
                                                .real(2, limits.back())
                                                .real(3, total)
                                                .real(4, sum)
                                                .real(5, squares)
                                                .reals(6, limits)
                                                .reals(7, counts)));
  }
  void text(const std::string& name, std::string_view words) {
    constexpr std::uint64_t of_strings = 7, tensor = 2;
    const Message plugin = Message().bytes(1, "text");
    add(Message()
            .bytes(1, name)
            .message(9, Message().message(1, plugin).integer(4, tensor))
            .message(8, Message().integer(1, of_strings).message(2, {}).bytes(8, words)));
  }
  const Message& message() const { return values_; }

 private:
  void add(const Message& value) { values_.message(1, value); }
  Message values_;
};

inline std::string event(double time, Index step, const Summary& summary) {
  return Message()
      .real(1, time)
      .integer(2, static_cast<std::uint64_t>(step))
      .message(5, summary.message())
      .text();
}
inline std::string first_event(double time) {
  return Message().real(1, time).bytes(3, "brain.Event:2").text();
}

// The step of an event, 0 if it has none; nothing if the bytes are no message.
inline std::optional<std::uint64_t> step_of_event(std::string_view bytes) {
  std::size_t at = 0;
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return {};
  };
  std::uint64_t step = 0;
  while (at < bytes.size()) {
    const auto tag = varint();
    if (!tag) return {};
    std::optional<std::uint64_t> skip = 0;
    switch (*tag & 7) {
      case 0:
        if (const auto value = varint(); !value)
          return {};
        else if (*tag >> 3 == 2)
          step = *value;
        break;
      case 1:
        skip = 8;
        break;
      case 2:
        skip = varint();
        break;
      case 5:
        skip = 4;
        break;
      default:
        return {};
    }
    if (!skip || *skip > bytes.size() - at) return {};
    at += static_cast<std::size_t>(*skip);
  }
  return step;
}

// Number of bytes of a file, from its beginning, that are intact records of at most `step` steps; step -1:
// none.
inline std::size_t intact(std::string_view file, Index step) {
  constexpr std::size_t head = 12, tail = 4;
  std::size_t at = 0;
  while (file.size() - at >= head + tail) {
    const auto length = number_at<std::uint64_t>(file, at);
    if (masked(crc32c_of(file.substr(at, 8))) != number_at<std::uint32_t>(file, at + 8)) break;
    if (length > file.size() - at - head - tail) break;
    const auto bytes = file.substr(at + head, static_cast<std::size_t>(length));
    if (masked(crc32c_of(bytes)) != number_at<std::uint32_t>(file, at + head + bytes.size())) break;
    const auto found = step_of_event(bytes);
    if (!found || step < 0 || *found > static_cast<std::uint64_t>(step)) break;
    at += head + bytes.size() + tail;
  }
  return at;
}

inline std::string in_layer(int layer, const char* name) {
  return "experts/layer " + std::to_string(layer) + " " + name;
}
inline void add(Summary& to, const StepRecord& r) {
  to.scalar("loss/step", r.loss);
  for (const auto& entry : loss_table<double>)
    if (const double loss = r.router.*entry.value; loss != 0)
      to.scalar(std::string("router loss/") + entry.name, loss);
  to.scalar("training/learning rate", r.learning_rate);
  to.scalar("training/gradient norm", r.gradient_norm);
  to.scalar("speed/tokens per second", r.tokens_per_second);
  if (r.utilisation > 0) to.scalar("speed/share of the peak", r.utilisation);
  for (const LayerLoad& layer : r.layers) {
    to.scalar(in_layer(layer.layer, "largest load over mean"), layer.max_over_mean());
    to.scalar(in_layer(layer.layer, "entropy of the load"), layer.entropy());
    to.scalar(in_layer(layer.layer, "dead"), layer.dead());
    to.scalar(in_layer(layer.layer, "dropped"), layer.dropped());
    to.histogram(in_layer(layer.layer, "load"), layer.load);
  }
}
inline void add(Summary& to, const EvaluationRecord& r) {
  to.scalar("loss/train", r.train);
  to.scalar("loss/val", r.val);
}
inline void add(Summary& to, const SampleRecord& r) {
  std::string block;  // an indented block of Markdown keeps lines as they are
  for (std::size_t from = 0; from <= r.text.size();) {
    const std::size_t end = std::min(r.text.find('\n', from), r.text.size());
    block += "    " + r.text.substr(from, end - from) + "\n";
    from = end + 1;
  }
  to.text("sample", as_utf8(block));
}

}  // namespace tensorboard

// Writer of an event file, with the interface of MetricsFile. Records of runs and events are not written.
template <class Files = SystemFiles>
class EventFileOf {
 public:
  // A new file. Throws std::runtime_error if there is one already, or it cannot be created. time: seconds
  // since 1970.
  EventFileOf(const std::filesystem::path& path, double time)
      : file_(path, AppendedFile<Files>::Start::create) {
    begin(time);
  }
  // The file of a run that goes on after `step` steps: records of later steps, and what is torn, are removed.
  // Creates the file if there is none. Throws std::runtime_error if it cannot be read or changed.
  EventFileOf(const std::filesystem::path& path, double time, Index step)
      : file_((keep_steps(path, step), path), AppendedFile<Files>::Start::go_on) {
    if (std::filesystem::file_size(path) == 0) begin(time);
  }

  // Returns whether all records so far are in the file. If not, error() says why, and the next call tries
  // again.
  template <class Record>
  bool write(const Record& record) {
    if constexpr (requires(tensorboard::Summary& summary) { tensorboard::add(summary, record); }) {
      tensorboard::Summary summary;
      tensorboard::add(summary, record);
      tensorboard::append_record(file_.waiting(), tensorboard::event(record.time, record.step, summary));
    }
    return file_.append();
  }
  bool flush() { return file_.flush(); }
  std::string error() const { return file_.error(); }

 private:
  void begin(double time) {
    tensorboard::append_record(file_.waiting(), tensorboard::first_event(time));
    file_.append();
  }
  static void keep_steps(const std::filesystem::path& path, Index step) {
    std::error_code missing;
    if (const auto bytes = std::filesystem::file_size(path, missing); missing || bytes == 0) return;
    const std::string file = read_file(path);
    const std::size_t keep = tensorboard::intact(file, step);
    if (keep < file.size())
      write_file_atomically<Files>(path,
                                   [&](auto& out) { out.write(std::string_view(file).substr(0, keep)); });
  }
  AppendedFile<Files> file_;
};
using EventFile = EventFileOf<>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt

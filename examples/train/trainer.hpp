#pragma once
// The training loop of `train`: steps, evaluations, logs and checkpoints of one model type.
#include <moegpt/run/console.hpp>
#include <moegpt/run/metrics.hpp>
#include <moegpt/run/peak.hpp>
#include <moegpt/run/routing_record.hpp>
#include <moegpt/run/run_directory.hpp>
#include <moegpt/run/signals.hpp>
#include <moegpt/run/tensorboard.hpp>
#include <moegpt/train/accumulate.hpp>

#include "../presets.hpp"
#include "text.hpp"
#include "world.hpp"

namespace training {

// Where a run is recorded, and what it goes on with.
struct Place {
  std::optional<RunDirectory> directory{};    // of a run that is resumed
  std::filesystem::path checkpoint{};         // empty: begin at step 0
  std::map<std::string, std::string> kept{};  // options
};

inline double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// What the options say, and the preset where they say nothing.
inline Recipe with_options(Recipe recipe, const Options& o, Index context) {
  if (o.steps) recipe.steps = *o.steps;
  if (o.batch) recipe.batch.batch = *o.batch;
  if (o.length) recipe.batch.length = *o.length;
  if (o.learning_rate)
    recipe.final_rate *= *o.learning_rate / recipe.learning_rate, recipe.learning_rate = *o.learning_rate;
  if (o.capacity) recipe.options.capacity_factor = *o.capacity;
  if (o.warmup)
    recipe.warmup = *o.warmup;
  else if (o.resume.empty())  // a run has its warm-up; one of an earlier version, the preset's
    recipe.warmup = std::min(recipe.warmup, recipe.steps / 10);
  check(recipe.batch.length <= context, "--length is ", recipe.batch.length, ", the model's context is ",
        context);
  return recipe;
}
inline BalanceLoads balance_loads(const Options& o) {
  return o.balance_loads == "batch"    ? BalanceLoads::micro_batch
         : o.balance_loads == "so-far" ? BalanceLoads::so_far
                                       : BalanceLoads::whole_step;
}
inline const Text& checked(const Text& text, Index length) {
  for (const TokenSequence* part : {&text.train, &text.val})
    if (part->size() <= length)
      throw options::Failure(
          4, "the text is too short: of its " + std::to_string(text.train.size() + text.val.size()) +
                 " tokens the last tenth, " + std::to_string(text.val.size()) +
                 ", is for validation, and each part needs at least " + std::to_string(length + 1) +
                 ": use a longer text, or a smaller --length");
  return text;
}

template <class Preset, int V>
class Trainer {
 public:
  using Model = World::Model<typename Preset::template Model<V>>;

  Trainer(World& world, const Options& o, const Text& text, Place place)
      : world_(world),
        o_(o),
        recipe_(with_options(Preset::recipe(), o, Model::config.context)),
        text_(checked(text, recipe_.batch.length)),
        units_(text_),
        place_(std::move(place)),
        exec_{o.threads},
        work_(world_.part(recipe_.batch), exec_, recipe_.objective),
        evaluation_work_(work_.shape, exec_, {}, Use::inference),
        adam_(recipe_.adam),
        batches_(text_.train,
                 {.shape = recipe_.batch,
                  .order = o.order == "random" ? WindowOrder::random : WindowOrder::shuffled,
                  .separator = text.separator},
                 seed_),
        step_batches_(static_cast<std::size_t>(o.accumulate), Batch{recipe_.batch}),
        accumulator_(balance_loads(o)),
        schedule_{.peak = recipe_.learning_rate,
                  .minimum = recipe_.final_rate,
                  .warmup = recipe_.warmup,
                  .steps = recipe_.steps},
        console_(terminal_of(2, o.color == "always"  ? Colour::always
                                : o.color == "never" ? Colour::never
                                                     : Colour::automatic),
                 recipe_.steps, recipe_.objective) {
    model_.options = recipe_.options;
    place_.kept["warmup"] = std::to_string(recipe_.warmup);
    state_.seed = o.seed, state_.corpus = text_.hash, state_.options = place_.kept;
    if (recipe_.noisy_evaluation) noise_ = seed_.with(Purpose::evaluation);
    work_.ranks = evaluation_work_.ranks = world_.template share<Model>();
    world_.keep_own_experts(grad_);
  }

  // Trains and returns the exit status.
  int run() {
    world_.check_equal(kept_text() + std::to_string(text_.hash), "other options, or another text,");
    try {
      return train();
    } catch (const NotFinite& error) {  // of an evaluation or a sample
      diverged(error.what());
    }
  }

 private:
  int train() {
    const StopSignals signals;
    if (!place_.checkpoint.empty())
      load();
    else if (!o_.from.empty())
      load_first();
    else
      init(model_, seed_, recipe_.init);
    if (!place_.checkpoint.empty() && state_.step >= recipe_.steps) nothing_to_train();
    check_files();
    open_logs();
    world_.keep_own_experts(model_);
    world_.keep_own_experts(adam_);
    if (state_.step == 0) log_first_evaluation();
    while (state_.step < recipe_.steps) {
      step();
      log_step();
      if (is_due(o_.sample_every)) log_sample();
      const int signal = world_.largest(signals.received());  // of any rank
      if (state_.step == recipe_.steps) break;
      if (signal != 0) return stopped_by(signal);
      if (is_due(o_.checkpoint_every) || is_time_to_save())
        if (has_directory()) where_all_experts_are([&] { return save_run(); });
    }
    return finish();
  }
  bool has_directory() const { return !o_.run.empty() || !o_.resume.empty(); }
  bool is_time_to_save() {
    return o_.checkpoint_minutes > 0 &&
           world_.largest(world_.is_first() && seconds_now() - saved_at_ >= 60 * o_.checkpoint_minutes) != 0;
  }
  std::string kept_text() const {
    std::string text;
    for (const auto& [name, value] : place_.kept) text += name + '\n' + value + '\n';
    return text;
  }
  // Whether the files at the end can hold the model.
  void check_files() const {
    if (!o_.save.empty()) check_can_save(o_.save, model_, text_.tokenizer);
    for (const std::string& run : {o_.run, o_.resume})
      if (!run.empty()) check_can_save_checkpoint(run, model_, adam_, text_.tokenizer);
  }
  void nothing_to_train() const {
    const std::string done = "the run is already after step " + std::to_string(state_.step);
    if (state_.step > recipe_.steps)
      throw options::Failure(
          2, done + ", --steps is " + std::to_string(recipe_.steps) + ": expected at least as many");
    show(done + ": nothing to train\n");
  }
  bool is_due(int every) const { return every > 0 && state_.step % every == 0; }

  // ---- one step ----

  // Takes a step, or skips it if a number is not finite: then only the place in the text changes.
  void step() {
    const double start = seconds_now();
    world_.begin_step();
    for (Batch& batch : step_batches_) batches_.next(batch);
    std::string fault = compute_gradient();
    if (fault.empty()) {
      adam_.options.learning_rate = schedule_(state_.step);
      adam_.step(model_, grad_, exec_, clip_scale(record_.gradient_norm, recipe_.clip));
      if (!std::isfinite(world_.global_norm(model_, exec_)))
        diverged("after the update the weight " + world_.first_found(first_not_finite(model_)) +
                 " is not finite");
    }
    ++state_.step;
    const Index tokens = o_.accumulate * recipe_.batch.tokens();
    state_.tokens += tokens;
    if (!fault.empty()) skip(fault);
    speed_.add(seconds_now() - start, tokens);
    world_.end_step(record_);
    record_.step = state_.step, record_.tokens = state_.tokens;
    record_.learning_rate = schedule_(state_.step - 1);
    record_.seconds = speed_.seconds_per_step(), record_.tokens_per_second = speed_.tokens_per_second();
    if (peak_ > 0) record_.utilisation = std::min(1.0, flops_ / (record_.seconds * peak_));
  }
  // Sets the gradient and its part of the record. Returns what is not finite; empty: nothing.
  std::string compute_gradient() {
    clear(record_.layers);
    set_zero(grad_, exec_);
    try {
      const Loss loss = accumulator_.step(
          model_, world_.parts(step_batches_), work_, grad_, seed_.with(Purpose::step, state_.step),
          [&](Index, const Loss&) { add_loads(model_, work_, record_.layers); });
      world_.reduce(grad_);
      record_.loss = loss.cross_entropy, record_.router = loss;
      if constexpr (requires { Preset::before_update(model_, grad_, state_.step); })
        Preset::before_update(model_, grad_, state_.step);  // a test's
    } catch (const NotFinite& error) {
      record_.loss = record_.gradient_norm = NAN;
      return error.what();
    }
    record_.gradient_norm = world_.global_norm(grad_, exec_);
    if (!std::isfinite(record_.gradient_norm))
      return "the gradient of " + world_.first_found(first_not_finite(grad_)) + " is not finite";
    if (record_.gradient_norm * clip_scale(record_.gradient_norm, recipe_.clip) >
        1e18)  // Adam squares it, in float
      return "the gradient has a norm of " + short_number(record_.gradient_norm);
    return {};
  }
  void skip(const std::string& fault) {
    ++state_.skipped;
    note("skipped", "step " + std::to_string(state_.step) + " is skipped: " + fault);
    if (state_.skipped > o_.max_skips)
      diverged(std::to_string(state_.skipped) + " steps had numbers that are not finite, --max-skips is " +
               std::to_string(o_.max_skips) + "; in the last one " + fault);
  }
  [[noreturn]] void diverged(const std::string& why) {
    note("diverged", why);
    throw options::Failure(3,
                           "the training diverged: " + why + ": lower the learning rate or clip gradients");
  }

  // ---- logs ----

  void show(const std::string& text) const { o_.show(text); }

  template <class Record>
  void write(Record&& record) {
    record.time = wall_time();
    const bool in_metrics = !metrics_ || metrics_->write(record),
               in_events = !events_ || events_->write(record);
    const bool whole = in_metrics && in_events;
    if (!whole && !std::exchange(log_failed_, true))
      show(console_.note("warning: the log cannot be written: " +
                         (metrics_->error().empty() ? events_->error() : metrics_->error()) +
                         ". Training goes on; the lines are written when it can be"));
    if (whole) log_failed_ = false;
  }
  // An event, told and recorded.
  void note(const char* what, const std::string& text) {
    show(console_.note(text));
    write(EventRecord{state_.step, what, text});
  }

  void open_logs() {
    peak_ = o_.no_peak ? 0 : measured_peak<typename Model::Scalar>(o_.threads);
    flops_ = o_.accumulate * model_flops(model_, work_.shape);
    RunRecord run{.step = state_.step,
                  .model = to_text<Model>(),
                  .parameters = count_weights(model_),
                  .active = model_.active_weights(),
                  .steps = recipe_.steps,
                  .unit = text_.tokenizer == Tokenizer::bytes() ? "byte" : "character",
                  .peak = peak_};
    const int different = text_.tokenizer.vocab();
    run.baselines = {{"uniform", uniform_loss(different)},
                     {"unigram", unigram_loss(text_.train, text_.val, different)}};
    if (text_.entropy_rate > 0) run.baselines.emplace_back("entropy rate", text_.entropy_rate);
    show(header_of(run));
    show("text: " + std::to_string(text_.train.size()) + " tokens for training, " +
         std::to_string(text_.val.size()) + " for validation, " + std::to_string(different) + " different\n");
    if (!has_directory() && o_.save.empty())
      show("the model is not kept: --run DIR keeps the run, --save FILE the model\n");
    open_directory();
    run.options.assign(place_.kept.begin(), place_.kept.end());
    if (!place_.directory) return;
    const auto metrics = place_.directory->metrics(), events = place_.directory->events();
    const Index kept = place_.checkpoint.empty() ? -1 : state_.step;  // later records are removed
    metrics_.emplace(metrics, kept);
    if (!metrics_->damage().empty())
      note("log cut", "warning: " + metrics_->damage() + ": it and the lines behind it are removed");
    if (o_.tensorboard) events_.emplace(events, wall_time(), kept);
    write(run);
  }
  void open_directory() {
    if (!world_.is_first()) return;
    if (!o_.run.empty())
      place_.directory = RunDirectory::create(o_.run, RunManifest{place_.kept}, o_.overwrite);
    else if (!o_.resume.empty())
      show(place_.checkpoint.empty() ? o_.resume + " has no checkpoint yet: the run begins at step 0\n"
                                     : "goes on after step " + std::to_string(state_.step) + ", from " +
                                           place_.checkpoint.string() + "\n");
  }

  double estimated(const TokenSequence& tokens, int batches, int stream) {
    const Key key = seed_.with(Purpose::evaluation, stream);
    return mean_loss(batches, [&](Index i, Batch& batch) {
      batch.shape = recipe_.batch;
      sample_batch(tokens, batch, key.with(Purpose::evaluation, i));
      return noise_ ? std::optional(key.with(Purpose::step, i)) : noise_;
    });
  }
  double whole_val_loss() {
    const Windows windows{text_.val, recipe_.batch.batch, recipe_.batch.length};
    return mean_loss(windows.size(), [&](Index i, Batch& batch) {
      windows.read(i, batch);
      return noise_;
    });
  }
  // Over all targets of batches; read(i, batch) sets batch i and returns the key of its noise. Documents are
  // hidden from each other as in training.
  template <class Read>
  double mean_loss(Index batches, Read&& read) {
    Batch batch;
    double sums[] = {0, 0};  // of losses, of targets
    for (Index i = 0; i < batches; ++i) {
      world_.progress("an evaluation");
      const std::optional<Key> noise = read(i, batch);
      if (text_.separator) hide_documents(batch, *text_.separator);
      const Loss loss = model_.forward(world_.part(batch), evaluation_work_, noise, Objective{});
      const auto targets = static_cast<double>(loss.targets);
      sums[0] += targets * loss.cross_entropy, sums[1] += targets;
    }
    world_.sum(sums, 2);
    return sums[0] / std::max(sums[1], 1.0);
  }
  EvaluationRecord evaluation() {
    EvaluationRecord e{.step = state_.step};
    if (peak_ > 0)  // other programs slow a probe: the largest counts
      peak_ = std::max(peak_, measured_peak<typename Model::Scalar>(o_.threads, 1));
    e.train = estimated(text_.train, 20, 1), e.val = estimated(text_.val, 20, 0);
    e.best = !state_.best_val || e.val < *state_.best_val;
    if (e.best) state_.best_val = e.val, state_.best_step = state_.step;
    evaluated_ = e;
    return e;
  }
  void log_first_evaluation() {
    if (o_.eval_every == 0 || recipe_.steps == 0) return;
    EvaluationRecord e = evaluation();
    write(e);
    char text[80];
    std::snprintf(text, sizeof text, "before the first step: train %.4f val %.4f", e.train, e.val);
    show(console_.note(text));
    const std::string unusual = unusual_first_loss(e.train, Model::config.vocab);
    if (!unusual.empty()) show(console_.note("warning: " + unusual));
  }
  void log_step() {
    record_.time = wall_time();
    write(record_);
    std::optional<EvaluationRecord> e;
    if (is_due(o_.eval_every) || state_.step == recipe_.steps) write(e.emplace(evaluation()));
    const bool interval = is_due(o_.log_every) || state_.step == recipe_.steps;
    show(console_.step(record_,
                       e          ? Line::kept
                       : interval ? Line::interval
                                  : Line::passing,
                       e ? &*e : nullptr));
  }
  std::string sample(int tokens) const {
    return generate(model_, text_.tokenizer, text_.tokenizer.knows("\n") ? "\n" : "",
                    {.tokens = tokens,
                     .sampling = {.temperature = 0.8},
                     .seed = seed_.value,
                     .exec = exec_,
                     .noise = noise_});
  }
  void log_sample() {
    SampleRecord record{state_.step};
    where_all_experts_are([&] { return !(record.text = sample(200)).empty(); });
    write(record);
    show(console_.end());
    std::printf("---\n%s\n---\n", record.text.c_str());
    std::fflush(stdout);
  }

  // ---- checkpoints ----

  void load_first() {
    Tokenizer tokenizer;
    try {
      load_stated(o_.from, model_, tokenizer);
    } catch (const std::invalid_argument& error) {
      throw options::Failure(2, error.what());
    }
    if (tokenizer != text_.tokenizer)
      throw options::Failure(
          2, "the model in " + o_.from + " has another tokenizer than the text: leave --tokenizer out");
    if (o_.capacity) model_.options.capacity_factor = *o_.capacity;
  }
  void load() {
    Tokenizer tokenizer;
    state_ = load_checkpoint(place_.checkpoint, model_, adam_, tokenizer);
    if (state_.corpus != text_.hash || tokenizer != text_.tokenizer)
      throw options::Failure(
          4, "the text is another than the one that the run in " + o_.resume + " was trained on");
    state_.options = place_.kept;
    const auto place = [&](const char* name) {
      const auto found = state_.cursor.find(name);
      if (found != state_.cursor.end()) return found->second;
      throw options::Failure(1, "the cursor of the checkpoint in " + o_.resume + " has no \"" + name + "\"");
    };
    batches_.seek({place("batches"), place("windows")});
  }
  // f() on rank 0, which has all experts meanwhile. Returns its result; on other ranks, true.
  template <class F>
  bool where_all_experts_are(F&& f) {
    world_.progress("a checkpoint or a sample");
    bool done = true;
    const Ranks* const ranks = std::exchange(work_.ranks, nullptr);
    world_.with_all_experts(model_, adam_, [&] { done = f(); });
    work_.ranks = ranks;
    return done;
  }
  // Returns whether there is a checkpoint of this step. If not, says why, and training can go on.
  bool save_run() {
    if (!place_.directory) return true;
    saved_at_ = seconds_now();
    const auto best_before = state_.best_saved;
    if (evaluated_ && evaluated_->step == state_.step && (!best_before || evaluated_->val < best_before->val))
      state_.best_saved = {state_.step, evaluated_->val};
    try {
      if (metrics_) metrics_->flush();
      if (events_) events_->flush();
      const auto folder = place_.directory->checkpoints();
      state_.cursor = {{"batches", batches_.cursor().batches}, {"windows", batches_.cursor().windows}};
      save_checkpoint(folder, model_, adam_, text_.tokenizer, state_);
      KeepRule rule{.newest = static_cast<std::size_t>(o_.keep), .every = o_.keep_every};
      if (state_.best_saved) rule.best = state_.best_saved->step;
      for (const auto& left : keep_checkpoints(folder, state_.step, rule))
        show(console_.note("warning: cannot remove all of the old checkpoint " + left.string()));
      return true;
    } catch (const std::exception& error) {
      state_.best_saved = best_before;
      note("checkpoint failed", std::string("warning: there is no checkpoint of step ") +
                                    std::to_string(state_.step) + ": " + error.what());
      return false;
    }
  }
  bool save_model(const std::filesystem::path& path) {
    try {
      save(path.string(), model_, text_.tokenizer);
      std::printf("saved %s\n", path.c_str());
      return true;
    } catch (const std::exception& error) {
      show(console_.note(std::string("error: ") + error.what()));
      return false;
    }
  }

  // Which experts the beginning of the validation text is sent to, for report.
  bool save_routing() {
    if constexpr (Model::has_experts) {
      try {
        const TokenView begin = TokenView(text_.val).part(0, std::min<Index>(text_.val.size(), 2000));
        save_json(place_.directory->routing(),
                  routing_record(model_, text_.tokenizer, begin, work_, state_.step, noise_));
      } catch (const std::exception& error) {
        show(console_.note(std::string("error: ") + error.what()));
        return false;
      }
    }
    return true;
  }

  int stopped_by(int signal) {
    note("stopped", std::string(signal == SIGINT ? "interrupted" : "asked to end") + " after step " +
                        std::to_string(state_.step) + " of " + std::to_string(recipe_.steps));
    const bool saved = where_all_experts_are([&] {
      const bool run = save_run();
      return (o_.save.empty() || save_model(o_.save)) && run;
    });
    if (saved && place_.directory)
      show("--resume " + place_.directory->path().string() + " goes on with it\n");
    return saved ? 128 + signal : 1;
  }
  int finish() {
    show(console_.end());
    const bool saved = where_all_experts_are([&] {
      bool all = save_run();  // first, because later steps may throw
      if (place_.directory) {
        all &= save_model(place_.directory->model());
        all &= save_routing();
      }
      if (!o_.save.empty()) all &= save_model(o_.save);
      std::printf("a sample:\n%s\n", sample(300).c_str());
      return all;
    });
    FinalRecord last{.step = state_.step,
                     .val = recipe_.noisy_evaluation ? estimated(text_.val, 400, 0) : whole_val_loss(),
                     .batches = recipe_.noisy_evaluation ? 400 : 0};
    const double loss = last.val;
    write(last);
    if (const auto& best = state_.best_saved; place_.directory && best && best->step != state_.step) {
      char text[48];
      std::snprintf(text, sizeof text, "%.4f", best->val);
      show(std::string("the checkpoint with the least val loss, ") + text + ", is " +
           (place_.directory->checkpoints() / checkpoint::name_of(best->step)).string() + "\n");
    }
    if (text_.entropy_rate > 0)
      std::printf("%.4f nats/char above the entropy rate\n", units_.per_character(loss) - text_.entropy_rate);
    const char* what = recipe_.noisy_evaluation ? "400 random batches" : "the whole validation text";
    std::printf("val loss at the end, of %s; those at steps are estimates from 20 random batches\n", what);
    std::printf("final val loss: %s\n", units_.text(loss).c_str());
    return saved ? 0 : 1;
  }

  World& world_;
  const Options& o_;
  Recipe recipe_;
  const Text& text_;
  Units units_;
  Place place_;
  Key seed_{o_.seed};
  Exec exec_;
  Model model_, grad_;
  typename Model::Workspace work_, evaluation_work_;
  Adam<Model> adam_;
  Batches batches_;
  std::vector<Batch> step_batches_;
  Accumulator<Model> accumulator_;
  WarmupCosine schedule_;
  std::optional<Key> noise_;
  TrainingState state_;

  StepRecord record_;
  Speed speed_;
  double peak_ = 0, flops_ = 0;  // of the processor, of a step
  Console console_;
  std::optional<MetricsFile> metrics_;
  std::optional<EventFile> events_;
  bool log_failed_ = false;
  std::optional<EvaluationRecord> evaluated_;  // the last one
  double saved_at_ = seconds_now();
};

}  // namespace training

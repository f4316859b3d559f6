/* The core of an audio plugin: a model of an amplifier on each channel, without the parts of a plugin format around it.

JUCE's processBlock, CLAP's process and VST3's process call `process`. There are two threads: that of the audio calls
`process` alone, which takes no lock, allocates and frees nothing and never waits; any other thread, one at a time, calls
the rest. Without a model the sound passes unchanged. */

#ifndef AMP_CORE_HPP
#define AMP_CORE_HPP

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "fastlstm.hpp"

class AmpCore
{
  public:
    AmpCore() = default;
    AmpCore(const AmpCore &) = delete;
    AmpCore &operator=(const AmpCore &) = delete;

    ~AmpCore()
    {
        delete coming_.load();
        delete gone_.load();
    }

    /* Before the first block, and whenever the host changes one of these, while no audio runs. A model that is loaded
    begins anew. */
    fl_status prepare(double sample_rate, std::size_t most_frames, std::size_t channels)
    {
        sample_rate_ = sample_rate;
        most_frames_ = std::max<std::size_t>(most_frames, 1);
        channels_ = channels;
        result_.assign(most_frames_, 0.0f);
        if (Amp *coming = coming_.exchange(nullptr))
            amp_.reset(coming);
        delete gone_.exchange(nullptr);
        return amp_ ? make_sessions(*amp_) : FL_OK;
    }

    /* Load a model's file, or refuse it and keep the model that plays. The next block plays the new one, from its first
    states on. */
    fl_status load(const char *path)
    {
        auto amp = std::make_unique<Amp>();
        if (const fl_status status = amp->model.load_file(path))
            return status;
        const fl_model_info &info = amp->model.info();
        if (info.itemsize != 4 || info.indices || info.input != 1 || info.output != 1 || !info.steps || info.last)
            return FL_UNSUPPORTED;
        if (const fl_status status = make_sessions(*amp))
            return status;
        model_rate_ = info.sample_rate;
        delete coming_.exchange(amp.release()); /* one that no block has taken */
        collect();
        return FL_OK;
    }

    /* Free a model that no longer plays. `load` does so too; a timer may call this, so that memory is not held until then. */
    void collect()
    {
        delete gone_.exchange(nullptr);
    }

    /* The model begins anew with the next block, as when the host's transport stops. */
    void reset() noexcept
    {
        reset_ = true;
    }

    /* Samples by which the sound comes later: none. */
    static constexpr int latency() noexcept
    {
        return 0;
    }

    /* The rate that the model loaded last was made for, or 0. At another one it sounds different. */
    double model_rate() const noexcept
    {
        return model_rate_;
    }

    double sample_rate() const noexcept
    {
        return sample_rate_;
    }

    /* Replace the samples of all channels. The channels may be fewer than were prepared, and the frames any number. */
    void process(float *const *channels, std::size_t number, std::size_t frames) noexcept
    {
        /* A new model is taken only when there is room to give back the old one, which is not freed here. */
        if (!gone_.load(std::memory_order_acquire))
            if (Amp *coming = coming_.exchange(nullptr, std::memory_order_acq_rel)) {
                gone_.store(amp_.release(), std::memory_order_release);
                amp_.reset(coming);
            }
        const bool anew = reset_.exchange(false);
        if (!amp_)
            return;
        if (anew)
            for (fastlstm::Session<float> &session : amp_->sessions) /* those too that this block has no channel for */
                (void)session.reset();
        number = std::min(number, amp_->sessions.size());
        for (std::size_t channel = 0; channel < number; channel++) {
            fastlstm::Session<float> &session = amp_->sessions[channel];
            for (std::size_t done = 0; done < frames; done += most_frames_) {
                const std::size_t steps = std::min(frames - done, most_frames_);
                float *samples = channels[channel] + done;
                if (session.run({samples, steps}, {result_.data(), steps}) == FL_OK)
                    std::copy_n(result_.data(), steps, samples);
            }
        }
    }

  private:
    struct Amp {
        fastlstm::Model model;
        std::vector<fastlstm::Session<float>> sessions; /* one for each channel: their states do not mix */
    };

    fl_status make_sessions(Amp &amp) const
    {
        amp.sessions.clear();
        amp.sessions.resize(channels_);
        for (fastlstm::Session<float> &session : amp.sessions)
            if (const fl_status status = session.make(amp.model, 1, static_cast<std::int64_t>(most_frames_)))
                return status;
        return FL_OK;
    }

    double sample_rate_ = 0, model_rate_ = 0;
    std::size_t most_frames_ = 1, channels_ = 0;
    std::vector<float> result_;
    std::unique_ptr<Amp> amp_;           /* what plays; the audio thread's */
    std::atomic<Amp *> coming_{nullptr}; /* loaded, and not yet taken by the audio thread */
    std::atomic<Amp *> gone_{nullptr};   /* left by the audio thread, to be freed */
    std::atomic<bool> reset_{false};
    static_assert(std::atomic<Amp *>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);
};

#endif

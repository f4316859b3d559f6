/* A small host for amp_core.hpp: plugin MODEL.fl OUT.wav [IN.wav [SECOND.fl]]

It plays a sound through the plugin in blocks of 64 frames, as a digital audio workstation does. Without IN.wav it is two
seconds of two plucked strings, one on each side. If there is a SECOND.fl, another thread loads it in the middle, while the
first one plays. */

#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <thread>
#include <vector>

#include "../c/wav.h"
#include "amp_core.hpp"

namespace
{

/* A string that is plucked every half second: harmonics, of which the higher ones fade sooner. */
double pluck(double frequency, double seconds)
{
    const double since = std::fmod(seconds, 0.5), turn = 6.283185307179586 * frequency * since;
    double sum = 0;
    for (int harmonic = 1; harmonic <= 12; harmonic++)
        sum += std::sin(harmonic * turn) / harmonic * std::exp(-3.0 * harmonic * since);
    return 0.4 * sum;
}

wav two_strings()
{
    wav sound{};
    sound.rate = 48000;
    sound.frames = 2 * sound.rate;
    sound.channels = 2;
    sound.samples = static_cast<float *>(allocate(sound.frames * sound.channels * sizeof(float)));
    for (std::size_t frame = 0; frame < sound.frames; frame++) {
        const double seconds = static_cast<double>(frame) / static_cast<double>(sound.rate);
        sound.samples[2 * frame] = static_cast<float>(pluck(110, seconds));
        sound.samples[2 * frame + 1] = static_cast<float>(pluck(164.81, seconds));
    }
    return sound;
}

} // namespace

int main(int argc, char **argv)
{
    constexpr std::size_t block = 64;
    if (argc < 3 || argc > 5) {
        std::fprintf(stderr, "usage: plugin MODEL.fl OUT.wav [IN.wav [SECOND.fl]]\n");
        return 2;
    }
    for (int n : {1, 4})
        if (n < argc && !std::ifstream(argv[n]))
            fail(argv[n], "cannot be opened");
    wav sound = argc > 3 ? wav_read(argv[3]) : two_strings();
    AmpCore plugin;
    fl_status status = plugin.prepare(static_cast<double>(sound.rate), block, sound.channels);
    if (status == FL_OK)
        status = plugin.load(argv[1]);
    if (status != FL_OK)
        fail(argv[1], fl_error_string(status));
    if (plugin.model_rate() != 0 && plugin.model_rate() != plugin.sample_rate())
        std::fprintf(stderr, "%s: warning: made for %g samples a second, and will sound different at %g\n", argv[1],
                     plugin.model_rate(), plugin.sample_rate());

    /* A host has each channel in a buffer of its own. */
    std::vector<std::array<float, block>> buffers(sound.channels);
    std::vector<float *> channels;
    for (auto &buffer : buffers)
        channels.push_back(buffer.data());
    const std::size_t middle = sound.frames / 2 / block * block;
    double took = 0;
    for (std::size_t done = 0; done < sound.frames; done += block) {
        if (argc > 4 && done == middle) {
            std::thread other([&] { status = plugin.load(argv[4]); });
            other.join(); /* a host would play on; here the output shall not depend on chance */
            if (status != FL_OK)
                fail(argv[4], fl_error_string(status));
        }
        const std::size_t frames = std::min(sound.frames - done, block);
        float *samples = sound.samples + done * sound.channels;
        for (std::size_t n = 0; n < frames; n++)
            for (std::size_t channel = 0; channel < sound.channels; channel++)
                buffers[channel][n] = samples[n * sound.channels + channel];
        const double start = now();
        plugin.process(channels.data(), sound.channels, frames);
        took += now() - start;
        for (std::size_t n = 0; n < frames; n++)
            for (std::size_t channel = 0; channel < sound.channels; channel++)
                samples[n * sound.channels + channel] = buffers[channel][n];
    }
    const double lasts = static_cast<double>(sound.frames) / static_cast<double>(sound.rate);
    wav_write(argv[2], &sound);
    std::printf("%.2f s of sound, %u channel%s, took %.4f s on one core (%s): %.1f times real time\n", lasts,
                sound.channels, sound.channels == 1 ? "" : "s", took, fl_isa_name(fl_isa(nullptr)), lasts / took);
    return 0;
}

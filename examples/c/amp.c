/* A sound through a model of a guitar amplifier: amp MODEL.fl IN.wav OUT.wav [BLOCK]

The model takes one sample and gives one, such as an LSTM of 32 units, a linear layer and the input added to its output.
Each channel of the sound is a session of its own, and goes through the model in blocks of 64 samples (or of BLOCK), as a
host hands them to a plugin. The program prints how many times faster than real time that is, on one core. */

#include "wav.h"

int main(int argc, char **argv)
{
    const long block = argc > 4 ? strtol(argv[4], NULL, 10) : 64;
    if (argc < 4 || argc > 5 || block < 1 || block > 1000000) {
        fprintf(stderr, "usage: amp MODEL.fl IN.wav OUT.wav [BLOCK]\n");
        return 2;
    }
    fl_model_info info;
    const fl_model *model = read_model(argv[1], &info);
    if (info.itemsize != 4 || info.indices || info.input != 1 || info.output != 1 || !info.steps || info.last)
        fail(argv[1], "the model must give one float for each float, sample by sample");
    const wav in = wav_read(argv[2]);
    if (info.sample_rate != 0 && info.sample_rate != (double)in.rate)
        fprintf(stderr, "%s: warning: %lu samples a second, but the model is made for %g, and will sound different\n",
                argv[2], in.rate, info.sample_rate);

    wav out = in;
    out.samples = (float *)allocate(in.frames * in.channels * sizeof(float));
    fl_session **sessions = (fl_session **)allocate(in.channels * sizeof(fl_session *));
    for (unsigned channel = 0; channel < in.channels; channel++)
        sessions[channel] = make_session(model, block);

    const double start = now();
    for (size_t done = 0; done < in.frames; done += (size_t)block) {
        const size_t left = in.frames - done, steps = left < (size_t)block ? left : (size_t)block;
        for (unsigned channel = 0; channel < in.channels; channel++) {
            /* Channels are interleaved, so the next sample of one is `channels` values further on. */
            const size_t first = done * in.channels + channel;
            const int64_t stride = (int64_t)(in.channels * sizeof(float));
            const fl_model_call call = {.struct_size = sizeof call,
                                        .steps = (int64_t)steps,
                                        .x = in.samples + first,
                                        .y = out.samples + first,
                                        .x_stride = stride,
                                        .y_stride = stride,
                                        .threads = 1};
            const fl_status status = fl_model_run(sessions[channel], &call);
            if (status != FL_OK)
                fail(argv[1], fl_error_string(status));
        }
    }
    const double took = now() - start, lasts = (double)in.frames / (double)in.rate;

    wav_write(argv[3], &out);
    printf("%.2f s of sound, %u channel%s, took %.4f s on one core (%s): %.1f times real time\n", lasts, in.channels,
           in.channels == 1 ? "" : "s", took, fl_isa_name(fl_isa(NULL)), lasts / took);
    return 0;
}

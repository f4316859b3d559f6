/* Is anybody speaking? vad MODEL.fl IN.wav

The model is the network of Silero VAD, as make_models.py writes it. It takes a frame of 512 samples of a sound of 16 kHz,
which is 32 ms, with the 64 samples before it. For each frame the program prints when it begins, in seconds, and the
probability that there is speech in it; and then, to standard error, how many times faster than real time that was. */

#include "wav.h"

enum { CONTEXT = 64, HOP = 512 };

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: vad MODEL.fl IN.wav\n");
        return 2;
    }
    fl_model_info info;
    const fl_model *model = read_model(argv[1], &info);
    if (info.itemsize != 4 || info.indices || info.input != CONTEXT + HOP || info.output != 1 || !info.steps)
        fail(argv[1], "the model must give one float for each frame of 576");
    const wav sound = wav_read(argv[2]);
    if ((double)sound.rate != info.sample_rate) {
        fprintf(stderr, "%s: expected a sound of %g samples a second, as the model is made for, got %lu\n", argv[2],
                info.sample_rate, sound.rate);
        return 1;
    }

    fl_session *session = make_session(model, 1);
    float frame[CONTEXT + HOP] = {0}, probability;
    double took = 0;
    for (size_t first = 0; first < sound.frames; first += HOP) {
        memmove(frame, frame + HOP, CONTEXT * sizeof(float));
        for (size_t n = 0; n < HOP; n++) { /* the mean of all channels, and silence behind the end */
            double sum = 0;
            for (unsigned channel = 0; channel < sound.channels && first + n < sound.frames; channel++)
                sum += sound.samples[(first + n) * sound.channels + channel];
            frame[CONTEXT + n] = (float)(sum / sound.channels);
        }
        const double start = now();
        const fl_status status = fl_model_step(session, frame, &probability);
        took += now() - start;
        if (status != FL_OK)
            fail(argv[1], fl_error_string(status));
        printf("%.3f %.9g\n", (double)first / (double)sound.rate, probability);
    }
    const double lasts = (double)sound.frames / (double)sound.rate;
    fprintf(stderr, "%.2f s of sound took %.4f s on one core (%s): %.1f times real time\n", lasts, took,
            fl_isa_name(fl_isa(NULL)), lasts / took);
    return 0;
}
